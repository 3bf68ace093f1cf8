"""MobileNetV2 with CondConv of eight experts, ImageNet (DRConv, table 1).

All convolutions but the first; the paper replaces the classifier, too.
"""

_base_ = "./mobilenetv2_240e_in1k.py"
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
