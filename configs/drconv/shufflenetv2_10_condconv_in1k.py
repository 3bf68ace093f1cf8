"""ShuffleNetV2 1x with CondConv of eight experts, ImageNet (DRConv, table 1)."""

_base_ = "./shufflenetv2_10_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.stage*.branch2.*",
            kernel_size=1,
            conv=dict(type="CondConv", num_experts=8),
        ),
    ],
)
