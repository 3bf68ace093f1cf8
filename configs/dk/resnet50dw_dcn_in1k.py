"""ResNet-50-DW with deformable convolutions in its last three stages, ImageNet (DK, table 2)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer[234].*", depthwise=True, conv=dict(type="DCN", deform_groups=1)
        ),
    ],
)
