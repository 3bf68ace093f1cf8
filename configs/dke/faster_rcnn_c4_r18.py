"""Faster R-CNN, ResNet-18, COCO (DKE, table 3: 'Faster-RCNN').

The paper gives no details: mmdet's C4 as the form without FPN, and its 1x schedule, are our choice.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet18, or a file
(and model.roi_head.shared_head.init_cfg likewise).
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
_resnet = dict(
    depth=18, style="pytorch", norm_cfg=dict(type="BN", requires_grad=True), init_cfg=None
)
_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
model = dict(
    data_preprocessor=_preprocessor,
    backbone=_resnet,
    rpn_head=dict(in_channels=256, feat_channels=256),
    roi_head=dict(
        shared_head=_resnet,
        bbox_roi_extractor=dict(out_channels=256),
        bbox_head=dict(in_channels=512),
    ),
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
