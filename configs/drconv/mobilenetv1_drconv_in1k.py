"""MobileNetV1 with dynamic region-aware convolutions for all 1x1, ImageNet (DRConv, table 1)."""

_base_ = "./mobilenetv1_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.*",
            kernel_size=1,
            conv=dict(type="DRConv", regions=8, base_weight=False),
        ),
    ],
)
