"""ResNet-50 with the stride in the first 1x1, ImageNet (DK, table 1)."""

_base_ = "../_base_/imagenet_dk.py"
model = dict(
    backbone=dict(type="ResNet", depth=50, style="caffe"),
    head=dict(in_channels=2048),
)
