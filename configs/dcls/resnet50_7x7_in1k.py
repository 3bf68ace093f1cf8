"""ResNet-50 with kernels of 7x7, ImageNet (DCLS, table 1).

The text says that larger kernels gain accuracy for three times the parameters, and not how large
they were: 7x7, the window of DCLS, has that many.
"""

_base_ = "./resnet50_a3_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[dict(pattern="backbone.layer*.conv2", conv=dict(type="Conv2d", kernel_size=7))],
)
