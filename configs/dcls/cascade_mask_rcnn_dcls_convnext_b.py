"""Cascade Mask R-CNN, ConvNeXt-B-DCLS, COCO. Published: box AP 53.0, mask AP 46.0."""

_base_ = "./cascade_mask_rcnn_dcls_convnext_t.py"
model = dict(
    backbone=dict(arch="base", drop_path_rate=0.7), neck=dict(in_channels=[128, 256, 512, 1024])
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12, decay_rate=0.8))
