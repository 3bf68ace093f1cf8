"""Faster R-CNN, ResNet-50, COCO (DKE, table 3: 'Faster-RCNN').

The paper gives no details: mmdet's C4 as the form without FPN, and its 1x schedule, are our choice.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file
(and model.roi_head.shared_head.init_cfg likewise).
"""

_base_ = "./faster_rcnn_c4_r18.py"
model = dict(
    backbone=dict(depth=50),
    rpn_head=dict(in_channels=1024, feat_channels=1024),
    roi_head=dict(
        shared_head=dict(depth=50),
        bbox_roi_extractor=dict(out_channels=1024),
        bbox_head=dict(in_channels=2048),
    ),
)
