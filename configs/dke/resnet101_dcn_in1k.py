"""ResNet-101 with deformable convolutions, ImageNet (DKE, table 1)."""

_base_ = "./resnet101_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer[234].*", kernel_size=3, conv=dict(type="DCNv2", deform_groups=1)
        ),
    ],
)
