"""RetinaNet with DRConv in its ResNet-50: `conv_cfg` on top of mmdet's own config, nothing else."""

_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(backbone=dict(conv_cfg=dict(type="DRConv"), init_cfg=None))
