"""Cascade Mask R-CNN, plain ConvNeXt-T, COCO. Published: box AP 50.4, mask AP 43.7."""

_base_ = "./cascade_mask_rcnn_dcls_convnext_t.py"
model = dict(backbone=dict(conv_cfg=None))
