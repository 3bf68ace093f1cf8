"""ResNet-50 with the stride in the first 1x1, ImageNet (DK, table 1)."""

_base_ = "../_base_/imagenet_dk.py"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=50, style="caffe"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=2048,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
