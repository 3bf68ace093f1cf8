"""AlexNet, ImageNet (DKE, table 1: the base network).

The paper gives no recipe. Ours: mmpretrain's 100 epochs at a batch of 256, from a tenth of its
rate, at which networks without norms learn.
"""

_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs32.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    # With its own classifier of three layers.
    backbone=dict(type="AlexNet", num_classes=1000),
    head=dict(type="ClsHead", loss=dict(type="CrossEntropyLoss", loss_weight=1.0), topk=(1, 5)),
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor", optimizer=dict(lr=0.01))
