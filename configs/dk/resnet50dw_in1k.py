"""ResNet-50-DW, ImageNet (DK, tables 1 and 2: the base network)."""

_base_ = "../_base_/imagenet_dk.py"
model = dict(
    backbone=dict(type="ResNetDW", depth=50, out_indices=(3,)),
    head=dict(in_channels=2048),
)
