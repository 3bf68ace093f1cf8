"""ResNet-101 with differentiable kernel evolution, ImageNet (DKE, table 1).

In the last 30 convolutions of 3x3; positions from N(0, 1) and alpha 2, as the paper has them.
"""

_base_ = "./resnet101_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DKE")),
    ],
)
