"""Faster R-CNN FPN, MobileNetV2 with local deformable kernels and CondConv, COCO (DK, table 4).

8 experts fit the paper's number of parameters; depthwise kernels are then not mixtures.
"""

_base_ = "./faster_rcnn_mobilenetv2.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        ),
        dict(pattern="backbone.*", kernel_size=1, conv=dict(type="CondConv", num_experts=8)),
    ],
)
