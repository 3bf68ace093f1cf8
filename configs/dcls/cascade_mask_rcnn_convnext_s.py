"""Cascade Mask R-CNN, plain ConvNeXt-S, COCO. Published: box AP 51.9, mask AP 45.0."""

_base_ = "./cascade_mask_rcnn_dcls_convnext_s.py"
model = dict(backbone=dict(conv_cfg=None))
