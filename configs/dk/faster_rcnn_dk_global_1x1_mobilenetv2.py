"""Faster R-CNN FPN, MobileNetV2 with global deformable kernels, 1x1 too, COCO (DK, table 3)."""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="global", scope=4, offset_lr_mult=0.1),
        ),
        dict(
            pattern="backbone.*",
            kernel_size=1,
            conv=dict(type="DK", mode="global", scope=2, offset_lr_mult=0.1),
        ),
    ],
)
