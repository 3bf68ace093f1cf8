"""MobileNetV2, ImageNet (DRConv, table 1: the base network)."""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="MobileNetV2"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=1280,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
