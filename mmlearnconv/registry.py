"""The registry that the convolutions are found in.

mmcv 2 merged its ``CONV_LAYERS`` registry into mmengine's ``MODELS``; the old name is kept here for
code that says what it means.
"""

from mmengine.registry import MODELS

CONV_LAYERS = MODELS

__all__ = ["CONV_LAYERS", "MODELS"]
