"""The embedded data set."""

from .shapes import ShapesDataset, ShapesSegDataset, Style, make_shapes, shapes_root

__all__ = ["ShapesDataset", "ShapesSegDataset", "Style", "make_shapes", "shapes_root"]
