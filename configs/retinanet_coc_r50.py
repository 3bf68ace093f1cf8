"""RetinaNet with CoC in its ResNet-50: `conv_cfg` on top of mmdet's own config.

Folds to the stock RetinaNet: `python tools/fold.py`. Nothing is downloaded. Weights:
--cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file; plain ones load.
"""

_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(backbone=dict(conv_cfg=dict(type="CoC"), init_cfg=dict(_delete_=True)))
