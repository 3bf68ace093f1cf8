"""ResNet-50-DW with local deformable kernels, ImageNet (DK, tables 1 and 2)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=4)),
    ],
)
