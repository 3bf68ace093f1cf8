"""MobileNetV1, ImageNet (DRConv, table 1: the base network)."""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    backbone=dict(type="MobileNetV1", out_indices=(4,)),
    head=dict(in_channels=1024),
)
