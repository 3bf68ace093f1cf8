"""DetNAS-300M, ImageNet: the backbone of faster_rcnn_detnas_300m.

The paper starts its detectors from such weights and gives neither their recipe nor their accuracy.
"""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="DetNASNet", out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=640,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
