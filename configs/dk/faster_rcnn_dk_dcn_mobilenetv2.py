"""Faster R-CNN FPN, MobileNetV2 with deformable kernels and convolutions, COCO (DK, table 4).

Deformable convolutions from the fourth block on, which fits the paper's number of parameters.
"""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.layer[3-7].*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, data_offset=True, offset_lr_mult=0.1),
        ),
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        ),
    ],
)
