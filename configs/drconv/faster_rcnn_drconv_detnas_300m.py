"""Faster R-CNN FPN, DetNAS-300M with DRConv in its 1x1 convolutions, COCO (DRConv, table 3)."""

_base_ = "./faster_rcnn_detnas_300m.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            kernel_size=1,
            conv=dict(type="DRConv", regions=8, base_weight=False),
        )
    ],
)
