"""AlexNet with differentiable kernel evolution, CIFAR-100 (DKE, table 1)."""

_base_ = "./alexnet_cifar100.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.features.*", conv=dict(type="DKE")),
    ],
)
