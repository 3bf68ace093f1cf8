"""Faster R-CNN FPN, MobileNetV2 with CondConv, COCO (DK, table 4).

8 experts fit the paper's number of parameters.
"""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            exclude="backbone.conv1.*",
            conv=dict(type="CondConv", num_experts=8),
        )
    ],
)
