"""MobileNetV2 with CondConv of eight experts, ImageNet (DK, table 2)."""

_base_ = "./mobilenetv2_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.*",
            exclude="backbone.conv1.*",
            conv=dict(type="CondConv", num_experts=8),
        ),
    ],
)
