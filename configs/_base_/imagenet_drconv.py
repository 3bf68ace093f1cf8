"""ImageNet as the DRConv paper trains: 240 epochs, the rate falling linearly from 0.5 to 0.

From the paper: those and images of 224; the rest as ShuffleNetV2, whose batch of 1024 and weight
decay of 4e-5 without norms mmpretrain's schedule has. Ours: mmpretrain's augmentation.
"""

_base_ = [
    "./imagenet_classifier.py",
    "mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_linearlr_bn_nowd.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
train_cfg = dict(max_epochs=240)
param_scheduler = [
    dict(type="PolyLR", power=1.0, eta_min=0, end=240, convert_to_iter_based=True),
]
