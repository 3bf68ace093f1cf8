"""FCN, plain HRNet-w18, PASCAL VOC 2012 (CoC, segmentation table: the base network).

The paper gives no recipe: mmseg's for FCN, 40k iterations, is ours.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=open-mmlab://msra/hrnetv2_w18, or a file.
"""

_base_ = "./_base_/voc12aug_512.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
_norm_cfg = dict(type="SyncBN", requires_grad=True)
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
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type="HRNet",
        norm_cfg=_norm_cfg,
        norm_eval=False,
        extra=dict(stage1=_stage1, stage2=_stage2, stage3=_stage3, stage4=_stage4),
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=[18, 36, 72, 144],
        in_index=(0, 1, 2, 3),
        input_transform="resize_concat",
        channels=270,
        kernel_size=1,
        num_convs=1,
        concat_input=False,
        dropout_ratio=-1,
        num_classes=21,
        norm_cfg=_norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
