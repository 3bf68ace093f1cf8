"""Faster R-CNN FPN, ResNet-50-DW with deformable convolution, COCO (DK, table 4).

Deformable in stages 3 to 5, which fits the paper's number of parameters.
"""

_base_ = "./faster_rcnn_r50dw.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.layer[234].*", depthwise=True, conv=dict(type="DCN", deform_groups=1)
        )
    ],
)
