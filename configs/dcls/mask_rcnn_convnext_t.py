"""Mask R-CNN, plain ConvNeXt-T, FPN, COCO, 36 epochs."""

_base_ = "../mask_rcnn_dcls_convnext_t.py"
model = dict(backbone=dict(conv_cfg=None))
