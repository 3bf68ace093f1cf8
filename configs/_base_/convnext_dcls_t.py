"""ConvNeXt-T with DCLS as published: 17x17 windows, 34 elements, positions shared by stage.

Weights: the paper starts from its ImageNet-1k model. Any ConvNeXt-T checkpoint will do, also plain:
`--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE`
(and `model.backbone.init_cfg.prefix=backbone.` if its keys start with that).
"""

custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
backbone = dict(
    _delete_=True,
    type="ConvNeXt",
    arch="tiny",
    conv_cfg=dict(type="DCLS"),
    drop_path_rate=0.4,
    layer_scale_init_value=1.0,
    out_indices=(0, 1, 2, 3),
)
