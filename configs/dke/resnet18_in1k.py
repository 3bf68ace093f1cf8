"""ResNet-18, ImageNet (DKE, tables 1 and 4: the base network).

The paper gives no recipe; this is mmpretrain's: 100 epochs at 0.1 for a batch of 256.
"""

_base_ = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
