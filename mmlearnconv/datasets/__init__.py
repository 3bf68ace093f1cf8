"""The embedded data set, and reading images."""

from .inputs import InputPipeline, LoadedImage, unwrap_dataset
from .loading import ImageError, name_unreadable_images
from .shapes import (
    ShapesClsDataset,
    ShapesDataset,
    ShapesSegDataset,
    Style,
    make_shape_classes,
    make_shapes,
    shapes_root,
)

__all__ = [
    "ImageError",
    "InputPipeline",
    "LoadedImage",
    "ShapesClsDataset",
    "ShapesDataset",
    "ShapesSegDataset",
    "Style",
    "make_shape_classes",
    "make_shapes",
    "name_unreadable_images",
    "shapes_root",
    "unwrap_dataset",
]
