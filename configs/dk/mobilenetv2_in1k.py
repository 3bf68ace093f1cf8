"""MobileNetV2, ImageNet (DK, tables 1 and 2: the base network)."""

_base_ = "../_base_/imagenet_dk.py"
model = dict(
    backbone=dict(type="MobileNetV2"),
    head=dict(in_channels=1280),
)
