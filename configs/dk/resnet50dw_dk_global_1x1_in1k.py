"""ResNet-50-DW with global deformable kernels, also for its 1x1, ImageNet (DK, table 1)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.*", depthwise=True, conv=dict(type="DK", mode="global", scope=4)),
        dict(pattern="backbone.layer*.conv[13]", conv=dict(type="DK", mode="global", scope=2)),
    ],
)
