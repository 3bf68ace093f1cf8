"""Cascade Mask R-CNN, plain ConvNeXt-B, COCO. Published: box AP 52.7, mask AP 45.6."""

_base_ = "./cascade_mask_rcnn_dcls_convnext_b.py"
model = dict(backbone=dict(conv_cfg=None))
