"""Faster R-CNN FPN, ResNet-50-DW with CondConv, COCO (DK, table 4).

2 experts fit the paper's number of parameters.
"""

_base_ = "./faster_rcnn_r50dw.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[dict(pattern="backbone.layer*.conv[123]", conv=dict(type="CondConv", num_experts=2))],
)
