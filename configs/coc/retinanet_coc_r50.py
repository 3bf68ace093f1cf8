"""RetinaNet, ResNet-50 with CoC, COCO: `conv_cfg` on top of mmdet's own config.

Plain weights load, and the trained model folds to the stock RetinaNet: `python tools/fold.py`.
"""

_base_ = "./retinanet_r50.py"
model = dict(backbone=dict(conv_cfg=dict(type="CoC")))
