"""Backbones and necks of the papers that mmdet and mmseg lack."""

from .convnext import ConvNeXt

__all__ = ["ConvNeXt"]
