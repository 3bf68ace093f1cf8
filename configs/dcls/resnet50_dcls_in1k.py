"""ResNet-50 with DCLS, ImageNet (DCLS, table 1).

From the paper: windows of 7x7, the training procedure, positions shared by layers of equal shape.
Ours: five elements and 3x3 convolutions only, which give the parameters that the authors print;
the text says that all convolutions were replaced, and not how many elements they had. The repulsive
loss, of which it reports a slight advantage here, is left out: RepulsiveLossHook adds it.
"""

_base_ = "./resnet50_a3_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(
            pattern="backbone.layer*.conv2",
            conv=dict(type="DCLS", dilated_kernel_size=7, kernel_count=5),
            share_positions=True,
        )
    ],
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
