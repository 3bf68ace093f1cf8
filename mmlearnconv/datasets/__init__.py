"""The embedded data set."""

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
    "ShapesClsDataset",
    "ShapesDataset",
    "ShapesSegDataset",
    "Style",
    "make_shape_classes",
    "make_shapes",
    "shapes_root",
]
