"""MobileNetV2 with deformable kernels and convolutions, ImageNet (DK, table 2).

Deformable convolutions from the fourth block on, which fits the paper's number of parameters.
"""

_base_ = "./mobilenetv2_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer[3-7].*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, data_offset=True, offset_lr_mult=0.1),
        ),
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        ),
    ],
)
