"""FCN, HRNet-w18 with weight standardisation, PASCAL VOC 2012 (CoC, segmentation table)."""

_base_ = "./fcn_hrnet_w18.py"
model = dict(backbone=dict(conv_cfg=dict(type="ConvStnd")))
