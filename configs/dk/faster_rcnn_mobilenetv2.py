"""Faster R-CNN FPN, MobileNetV2, COCO (DK, tables 3 and 4: the base network).

From the paper: FPN on the last map of each resolution, weight decay 4e-5. Ours: mmdet's Faster
R-CNN and 1x schedule around it, batch of 16 at 0.02.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=FILE; plain ones load.
"""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 7),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor",
    optimizer=dict(weight_decay=4e-5),
)
