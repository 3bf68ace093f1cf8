"""RetinaNet with DRConv in its ResNet-50: `conv_cfg` on top of mmdet's own config.

Plain weights load, as `retinanet_r50.py` says.
"""

_base_ = "../coc/retinanet_r50.py"
model = dict(backbone=dict(conv_cfg=dict(type="DRConv")))
