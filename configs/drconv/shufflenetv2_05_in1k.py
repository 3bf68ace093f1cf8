"""ShuffleNetV2 0.5x, ImageNet (DRConv, table 1: the base network)."""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    backbone=dict(type="mmengine.ShuffleNetV2", widen_factor=0.5, out_indices=(3,)),
    head=dict(in_channels=1024),
)
