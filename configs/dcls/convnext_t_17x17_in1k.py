"""ConvNeXt-T with depthwise kernels of 17x17, ImageNet (DCLS, table 2: ConvNeXt-T-ker17)."""

_base_ = "./convnext_t_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[dict(pattern="*.depthwise_conv", conv=dict(type="Conv2d", kernel_size=17))],
)
