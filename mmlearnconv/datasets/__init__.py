"""The embedded data set."""

from .shapes import ShapesDataset, ShapesSegDataset, make_shapes, shapes_root

__all__ = ["ShapesDataset", "ShapesSegDataset", "make_shapes", "shapes_root"]
