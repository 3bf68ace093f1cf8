"""FCN, plain HRNet-w18, PASCAL VOC 2012 (CoC, segmentation table: the base network).

The paper gives no recipe: mmseg's for FCN, 40k iterations, is ours.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=open-mmlab://msra/hrnetv2_w18, or a file.
"""

_base_ = "./fcn_r50_d8.py"
_stage1 = dict(
    num_modules=1, num_branches=1, block="BOTTLENECK", num_blocks=(4,), num_channels=(64,)
)
_stage2 = dict(
    num_modules=1, num_branches=2, block="BASIC", num_blocks=(4, 4), num_channels=(18, 36)
)
_stage3 = dict(
    num_modules=4, num_branches=3, block="BASIC", num_blocks=(4, 4, 4), num_channels=(18, 36, 72)
)
_stage4 = dict(
    num_modules=3,
    num_branches=4,
    block="BASIC",
    num_blocks=(4, 4, 4, 4),
    num_channels=(18, 36, 72, 144),
)
model = dict(
    backbone=dict(
        _delete_=True,
        type="HRNet",
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        norm_eval=False,
        extra=dict(stage1=_stage1, stage2=_stage2, stage3=_stage3, stage4=_stage4),
    ),
    decode_head=dict(
        in_channels=[18, 36, 72, 144],
        in_index=(0, 1, 2, 3),
        input_transform="resize_concat",
        channels=270,
        kernel_size=1,
        num_convs=1,
        concat_input=False,
        dropout_ratio=-1,
    ),
    auxiliary_head=None,
)
