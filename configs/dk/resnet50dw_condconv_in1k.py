"""ResNet-50-DW with CondConv of two experts, ImageNet (DK, table 2)."""

_base_ = "./resnet50dw_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(pattern="backbone.layer*.conv[123]", conv=dict(type="CondConv", num_experts=2)),
    ],
)
