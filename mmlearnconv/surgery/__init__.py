"""Whole-model changes: plain convolutions swapped for learnable ones, and folded back."""

from .build import build_conv
from .fold import fold_convs
from .swap import SwapRule, from_conv, swap_convs

__all__ = [
    "SwapRule",
    "build_conv",
    "fold_convs",
    "from_conv",
    "swap_convs",
]
