"""Faster R-CNN FPN, ResNet-50-DW with local deformable kernels, COCO (DK, table 3)."""

_base_ = "./faster_rcnn_r50dw.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=4))],
)
