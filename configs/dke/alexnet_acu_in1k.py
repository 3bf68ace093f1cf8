"""AlexNet with active convolution units, ImageNet (DKE, table 1)."""

_base_ = "./alexnet_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.features.*", conv=dict(type="ACU")),
    ],
)
