"""RetinaNet, ResNet-50 with orthonormal kernels, COCO (CoC, detection table).

Plain weights do not load: their kernels are not orthonormal.
"""

_base_ = "./retinanet_r50.py"
model = dict(backbone=dict(conv_cfg=dict(type="ConvOrth")))
