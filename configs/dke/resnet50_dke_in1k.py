"""ResNet-50 with differentiable kernel evolution, ImageNet.

Not in the paper's classification table: for its detectors with this backbone (table 3).
"""

_base_ = "./resnet50_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DKE")),
    ],
)
