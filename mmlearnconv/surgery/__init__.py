"""Whole-model changes: plain convolutions swapped for learnable ones, and folded back."""

from .fold import fold_convs, folded_config
from .swap import SwapConv, SwapRule, from_conv, swap_convs

__all__ = ["SwapConv", "SwapRule", "fold_convs", "folded_config", "from_conv", "swap_convs"]
