"""DetNAS-300M with dynamic region-aware convolutions, ImageNet: the backbone of its detector."""

_base_ = "./detnas_300m_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.*",
            kernel_size=1,
            conv=dict(type="DRConv", regions=8, base_weight=False),
        )
    ],
)
