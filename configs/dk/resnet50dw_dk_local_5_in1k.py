"""ResNet-50-DW with local deformable kernels in a space of 5x5, ImageNet (DK, table 1)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="local", scope=5)),
    ],
)
