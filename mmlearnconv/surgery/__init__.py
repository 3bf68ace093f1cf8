"""Whole-model changes: plain convolutions swapped for learnable ones, and folded back."""

from .fold import fold_convs, folded_config, without_learnable
from .swap import SwapConv, SwapRule, from_conv, swap_convs

__all__ = [
    "SwapConv",
    "SwapRule",
    "fold_convs",
    "folded_config",
    "from_conv",
    "swap_convs",
    "without_learnable",
]
