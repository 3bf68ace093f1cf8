"""ResNet-18 with differentiable kernel evolution, CIFAR-100 (DKE, table 1)."""

_base_ = "./resnet18_cifar100.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DKE")),
    ],
)
