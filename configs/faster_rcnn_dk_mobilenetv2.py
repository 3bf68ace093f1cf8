"""Faster R-CNN FPN, MobileNetV2 with local deformable kernels, COCO (DK, table 4).

From the paper: kernel space of 4x4 on the depthwise convolutions, learning rate of the offsets a
tenth, weight decay 4e-5, 1x schedule. Ours: mmdet's Faster R-CNN around it, batch of 16 at 0.02.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=FILE; plain ones load.
"""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            depthwise=True,
            conv=dict(type="DK", mode="local", scope=4, offset_lr_mult=0.1),
        )
    ],
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor",
    optimizer=dict(weight_decay=4e-5),
)
