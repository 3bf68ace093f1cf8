"""ConvNeXt-S with DCLS of 40 elements, ImageNet (DCLS, table 2).

All else as convnext_t_dcls_in1k.
"""

_base_ = "./convnext_s_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmengine.ConvNeXt",
        arch="small",
        conv_cfg=dict(type="DCLS"),
        drop_path_rate=0.4,
        out_indices=(3,),
        gap_before_final_norm=True,
    )
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
custom_hooks = [*_base_.custom_hooks, dict(type="RepulsiveLossHook", begin=20)]
