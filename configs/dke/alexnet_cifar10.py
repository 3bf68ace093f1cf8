"""AlexNet, CIFAR-10 (DKE, table 1: the base network).

The paper gives neither the network's form on small images nor a recipe. Ours: images enlarged to
224, mmpretrain's 200 epochs for CIFAR, from a tenth of its rate.
"""

_base_ = [
    "mmpretrain::_base_/datasets/cifar10_bs16.py",
    "mmpretrain::_base_/schedules/cifar10_bs128.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="AlexNet", num_classes=10),
    head=dict(type="ClsHead", loss=dict(type="CrossEntropyLoss", loss_weight=1.0)),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="RandomCrop", crop_size=32, padding=4),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="Resize", scale=224),
            dict(type="PackInputs"),
        ]
    )
)
_pipeline = [dict(type="Resize", scale=224), dict(type="PackInputs")]
val_dataloader = dict(dataset=dict(pipeline=_pipeline))
test_dataloader = dict(dataset=dict(pipeline=_pipeline))
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor", optimizer=dict(lr=0.01))
