"""Faster R-CNN FPN, DetNAS-300M, COCO (DRConv, table 3: the base network).

The paper trains as DetNAS does, from its ImageNet weights; Faster R-CNN of mmdet and the DRConv
paper's schedule are ours, and nothing is frozen.
Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/default_runtime.py",
    "../_base_/schedule_drconv_180k.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="DetNASNet"),
    neck=dict(in_channels=[64, 160, 320, 640]),
)
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000))
log_processor = dict(by_epoch=False)
