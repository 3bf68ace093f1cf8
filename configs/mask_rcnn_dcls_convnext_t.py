"""Mask R-CNN, ConvNeXt-T-DCLS, FPN, COCO, 36 epochs."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/default_runtime.py",
    "./_base_/convnext_dcls_t.py",
    "./_base_/coco_convnext_36e.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=[96, 192, 384, 768]))
