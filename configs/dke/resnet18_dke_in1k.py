"""ResNet-18 with differentiable kernel evolution, ImageNet (DKE, tables 1 and 4).

In the last 12 convolutions of 3x3; positions from N(0, 1) and alpha 2, as the paper has them.
"""

_base_ = "./resnet18_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DKE")),
    ],
)
