"""MobileNetV2 with deformable convolutions from the fourth block on, ImageNet (DK, table 2)."""

_base_ = "./mobilenetv2_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer[3-7].*", depthwise=True, conv=dict(type="DCN", deform_groups=1)
        ),
    ],
)
