"""ConvNeXt-S, ImageNet (DCLS, table 2: the base network), as mmpretrain trains it."""

_base_ = "mmpretrain::convnext/convnext-small_32xb128_in1k.py"
