"""ConvNeXt-T with dilation 2, ImageNet (DCLS, table 2: ConvNeXt-T-dil2)."""

_base_ = "./convnext_t_17x17_in1k.py"
model = _base_.model
model.swaps[0].conv = dict(type="Conv2d", dilation=2)
