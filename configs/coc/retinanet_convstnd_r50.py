"""RetinaNet, ResNet-50 with weight standardisation, COCO (CoC, detection table)."""

_base_ = "./retinanet_r50.py"
model = dict(backbone=dict(conv_cfg=dict(type="ConvStnd")))
