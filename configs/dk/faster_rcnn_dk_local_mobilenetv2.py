"""Faster R-CNN FPN, MobileNetV2 with local deformable kernels, COCO (DK, table 3)."""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        )
    ],
)
