"""Mask R-CNN, ResNet-50, FPN with DRConv in two layers, COCO (DRConv, table 3: 8 regions).

The paper does not say which two layers; the 3x3 outputs of the two finest levels are ours. From the
paper: 512 proposals, a box head of four convolutions and one linear layer, filters without a base.
The paper's learning rate is 0.2 for a batch of 16, which is probably a misprint of mmdet's 0.02.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    # Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
    # model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file.
    backbone=dict(init_cfg=dict(_delete_=True)),
    neck=dict(
        type="LearnableFPN",
        output_conv_cfg=dict(type="DRConv", regions=8, base_weight=False),
        output_levels=(0, 1),
    ),
    roi_head=dict(bbox_head=dict(type="Shared4Conv1FCBBoxHead")),
    train_cfg=dict(rcnn=dict(sampler=dict(num=512))),
)
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=16)
