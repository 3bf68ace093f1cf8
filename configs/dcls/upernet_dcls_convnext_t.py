"""UPerNet, ConvNeXt-T-DCLS, ADE20K, 512x512, 160k iterations. Published: mIoU 47.1."""

_base_ = [
    "../_base_/upernet_convnext.py",
    "../_base_/ade20k_512.py",
    "../_base_/convnext_dcls_t.py",
]
model = dict(backbone=_base_.backbone)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LearnableConvOptimWrapperConstructor",
    paramwise_cfg=dict(
        base="LearningRateDecayOptimizerConstructor",
        decay_rate=0.9,
        decay_type="stage_wise",
        num_layers=6,
    ),
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=160000, eta_min=0.0, by_epoch=False),
]
