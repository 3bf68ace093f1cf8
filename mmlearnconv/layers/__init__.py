"""One file a convolution; each is registered for ``conv_cfg`` under its type name."""

from .base import LearnableConv2d
from .dcls import DCLSConv2d

__all__ = ["DCLSConv2d", "LearnableConv2d"]
