"""Cascade Mask R-CNN, ConvNeXt-S-DCLS, COCO. Published: box AP 52.8, mask AP 45.6."""

_base_ = "./cascade_mask_rcnn_dcls_convnext_t.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.6))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
