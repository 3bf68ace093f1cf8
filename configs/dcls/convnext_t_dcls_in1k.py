"""ConvNeXt-T with DCLS, ImageNet (DCLS, table 2).

From the paper: windows of 17x17 and 34 elements, positions shared by a stage, from N(0, 0.5), at
five times the learning rate and without weight decay, the repulsive loss from epoch 20, and all
else as ConvNeXt is trained, with the averaged weights. Ours: the weight of the repulsive loss, 1.
"""

_base_ = "./convnext_t_in1k.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        # mmpretrain's own takes no conv_cfg.
        type="mmengine.ConvNeXt",
        arch="tiny",
        conv_cfg=dict(type="DCLS"),
        drop_path_rate=0.1,
        out_indices=(3,),
        gap_before_final_norm=True,
    )
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
custom_hooks = [*_base_.custom_hooks, dict(type="RepulsiveLossHook", begin=20)]
