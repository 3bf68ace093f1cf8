"""ResNet-50-DW with deformable kernels and convolutions, ImageNet (DK, table 2).

Deformable convolutions in the last three stages, which fits the paper's number of parameters.
"""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer[234].*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, data_offset=True),
        ),
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=4)),
    ],
)
