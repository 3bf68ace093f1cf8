"""A classifier of ImageNet's classes on the mean of a backbone's last map.

Configs that inherit it name the backbone, and its channels as the head's `in_channels`.
"""

model = dict(
    type="ImageClassifier",
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
