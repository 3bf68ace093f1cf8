"""Mask R-CNN, HRNet-w18 with weight standardisation, COCO (CoC, detection table)."""

_base_ = "./mask_rcnn_hrnet_w18.py"
model = dict(backbone=dict(conv_cfg=dict(type="ConvStnd")))
