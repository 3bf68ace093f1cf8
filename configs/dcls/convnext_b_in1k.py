"""ConvNeXt-B, ImageNet (DCLS, table 2: the base network), as mmpretrain trains it."""

_base_ = "mmpretrain::convnext/convnext-base_32xb128_in1k.py"
