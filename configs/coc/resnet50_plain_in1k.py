"""ResNet-50, ImageNet: the base network, as mmpretrain trains it.

The paper names a gain of 0.2 to 0.6 % on ImageNet, without network, variant or recipe.
"""

_base_ = "mmpretrain::resnet/resnet50_8xb32_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
