"""RetinaNet, ResNet-50 with CoC and orthonormal kernels, COCO (CoC, detection table).

The paper's best setting for networks that are not light. Plain weights do not load: their kernels
are not orthonormal; with conv_cfg=dict(type='CoC') they do.
"""

_base_ = "./retinanet_r50.py"
model = dict(backbone=dict(conv_cfg=dict(type="CoC", normalize="orthogonalize")))
