"""ResNet-50, ImageNet: the base of resnet50_dke_in1k, as mmpretrain trains it."""

_base_ = "mmpretrain::resnet/resnet50_8xb32_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
