"""ResNet-50-DW with global deformable kernels, ImageNet (DK, table 1)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="global", scope=4)),
    ],
)
