"""ShuffleNetV2 1x, ImageNet (DRConv, table 1: the base network)."""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    backbone=dict(type="mmengine.ShuffleNetV2", widen_factor=1.0, out_indices=(3,)),
    head=dict(in_channels=1024),
)
