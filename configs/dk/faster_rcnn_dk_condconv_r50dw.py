"""Faster R-CNN FPN, ResNet-50-DW with local deformable kernels and CondConv, COCO (DK, table 4).

2 experts fit the paper's number of parameters; depthwise kernels are then not mixtures.
"""

_base_ = "./faster_rcnn_r50dw.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=4)),
        dict(pattern="backbone.layer*.conv[13]", conv=dict(type="CondConv", num_experts=2)),
    ],
)
