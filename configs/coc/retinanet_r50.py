"""RetinaNet, plain ResNet-50, COCO (CoC, detection table: the base network).

mmdet's own, without downloads. Weights: --cfg-options
model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=torchvision://resnet50,
or a file.
"""

_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(backbone=dict(init_cfg=dict(_delete_=True)))
