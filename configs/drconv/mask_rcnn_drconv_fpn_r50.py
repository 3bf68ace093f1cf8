"""Mask R-CNN, ResNet-50, FPN with DRConv in two layers, COCO (DRConv, table 3: 8 regions).

The paper does not say which two layers; the 3x3 outputs of the two finest levels are ours. From the
paper: filters without a base, and what the base network has.
"""

_base_ = "./mask_rcnn_4conv1fc_r50.py"
model = dict(
    neck=dict(
        type="LearnableFPN",
        output_conv_cfg=dict(type="DRConv", regions=8, base_weight=False),
        output_levels=(0, 1),
    ),
)
