"""One file a convolution; each is registered for ``conv_cfg`` under its type name."""

from .base import LearnableConv, LearnableConv2d
from .coc import CoCConv2d
from .condconv import CondConv2d
from .dcls import DCLSConv, DCLSConv1d, DCLSConv2d, DCLSConv3d
from .depthwise import DepthwiseConv2d, DepthwiseTapsConv2d
from .dk import DeformableKernelConv2d
from .dke import DKEConv2d
from .drconv import DRConv2d

__all__ = [
    "CoCConv2d",
    "CondConv2d",
    "DCLSConv",
    "DCLSConv1d",
    "DCLSConv2d",
    "DCLSConv3d",
    "DKEConv2d",
    "DRConv2d",
    "DeformableKernelConv2d",
    "DepthwiseConv2d",
    "DepthwiseTapsConv2d",
    "LearnableConv",
    "LearnableConv2d",
]
