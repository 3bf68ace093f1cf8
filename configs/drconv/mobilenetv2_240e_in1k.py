"""MobileNetV2, ImageNet (DRConv, table 1: the base network)."""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    backbone=dict(type="MobileNetV2"),
    head=dict(in_channels=1280),
)
