"""MobileNetV2 with local deformable kernels, ImageNet (DK, tables 1 and 2)."""

_base_ = "./mobilenetv2_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        ),
    ],
)
