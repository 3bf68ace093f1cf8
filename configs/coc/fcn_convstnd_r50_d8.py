"""FCN, ResNet-50-d8 with weight standardisation, PASCAL VOC 2012 (CoC, segmentation table)."""

_base_ = "./fcn_r50_d8.py"
model = dict(backbone=dict(conv_cfg=dict(type="ConvStnd")))
