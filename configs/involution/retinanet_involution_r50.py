"""RetinaNet, ResNet-50 with involutions for its spatial convolutions, COCO, 12 epochs.

The paper has 7x7 kernels in place of 3x3 ones, and trains from ImageNet weights of
its networks; this config keeps 3x3 and starts from random weights.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        conv_cfg=dict(type="Involution"), frozen_stages=-1, norm_eval=False, init_cfg=None
    )
)
