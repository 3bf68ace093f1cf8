"""MobileNetV2 with global deformable kernels, also for its 1x1, ImageNet (DK, table 1)."""

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
        dict(
            pattern="backbone.*",
            kernel_size=1,
            conv=dict(type="DK", mode="global", scope=2, offset_lr_mult=0.1),
        ),
    ],
)
