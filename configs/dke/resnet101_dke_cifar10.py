"""ResNet-101 with differentiable kernel evolution, CIFAR-10 (DKE, table 1)."""

_base_ = "./resnet101_cifar10.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DKE")),
    ],
)
