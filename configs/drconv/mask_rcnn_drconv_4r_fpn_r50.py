"""Mask R-CNN, ResNet-50, FPN with DRConv of 4 regions in two layers, COCO (DRConv, table 3)."""

_base_ = "./mask_rcnn_drconv_fpn_r50.py"
model = dict(neck=dict(output_conv_cfg=dict(regions=4)))
