"""ConvNeXt-T, ImageNet (DCLS, table 2: the base network), as mmpretrain trains it."""

_base_ = "mmpretrain::convnext/convnext-tiny_32xb128_in1k.py"
