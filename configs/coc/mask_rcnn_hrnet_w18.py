"""Mask R-CNN, plain HRNet-w18, COCO (CoC, detection table: the base network).

mmdet's own, without downloads. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=open-mmlab://msra/hrnetv2_w18, or a file.
"""

_base_ = "mmdet::hrnet/mask-rcnn_hrnetv2p-w18-1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(backbone=dict(init_cfg=dict(_delete_=True)))
