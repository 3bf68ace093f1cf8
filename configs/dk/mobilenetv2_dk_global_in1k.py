"""MobileNetV2 with global deformable kernels, ImageNet (DK, table 1)."""

_base_ = "./mobilenetv2_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="global", scope=4, offset_lr_mult=0.1),
        ),
    ],
)
