"""Mask R-CNN, plain ResNet-50, FPN, COCO (DRConv, table 3: the base network).

From the paper: 512 proposals, a box head of four convolutions and one linear layer, 180k
iterations, steps at 120k, 140k and 150k, warm-up of 500 iterations from a factor of 0.33.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
    "../_base_/schedule_drconv_180k.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True)),
    roi_head=dict(bbox_head=dict(type="Shared4Conv1FCBBoxHead")),
    train_cfg=dict(rcnn=dict(sampler=dict(num=512))),
)
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000))
log_processor = dict(by_epoch=False)
