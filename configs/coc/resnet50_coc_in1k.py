"""ResNet-50 with convolutions of convolutions, ImageNet."""

_base_ = "./resnet50_plain_in1k.py"
model = dict(backbone=dict(conv_cfg=dict(type="CoC")))
