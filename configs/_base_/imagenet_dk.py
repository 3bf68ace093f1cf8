"""ImageNet as the DK paper trains: 90 epochs of SGD, momentum 0.9, in batches of 256.

From the paper: 0.1 with a cosine after five epochs of linear warm-up, weight decay 4e-5, random
scale, aspect ratio and colour, the centre 224 of images with a shorter side of 256. Ours: crops of
224, flips, and a strength of 0.4 for the colours, which the paper does not give.
"""

_base_ = [
    "./imagenet_classifier.py",
    "mmpretrain::_base_/datasets/imagenet_bs32.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", scale=224),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type="PackInputs"),
        ]
    )
)
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor", optimizer=dict(weight_decay=4e-5)
)
train_cfg = dict(max_epochs=90)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", T_max=85, begin=5, end=90),
]
