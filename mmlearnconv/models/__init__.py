"""Backbones and necks of the papers that mmdet and mmseg lack."""

from .convnext import ConvNeXt
from .fpn import LearnableFPN

__all__ = ["ConvNeXt", "LearnableFPN"]
