"""Faster R-CNN FPN, MobileNetV2 with deformable convolution, COCO (DK, table 4).

Deformable from the fourth block on, which fits the paper's number of parameters.
"""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.layer[3-7].*", depthwise=True, conv=dict(type="DCN", deform_groups=1)
        )
    ],
)
