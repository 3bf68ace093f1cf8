"""ResNet-101, CIFAR-10 (DKE, table 1: the base network).

The paper gives no recipe; network and training are mmpretrain's for CIFAR.
"""

_base_ = "mmpretrain::resnet/resnet101_8xb16_cifar10.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
