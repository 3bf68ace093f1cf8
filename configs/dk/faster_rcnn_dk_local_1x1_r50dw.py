"""Faster R-CNN FPN, ResNet-50-DW with local deformable kernels, 1x1 global, COCO (DK, table 3)."""

_base_ = "./faster_rcnn_r50dw.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=4)),
        dict(pattern="backbone.layer*.conv[13]", conv=dict(type="DK", mode="global", scope=2)),
    ],
)
