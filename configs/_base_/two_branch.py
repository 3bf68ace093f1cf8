"""The shallow detector with a branch for large and one for small objects (DKE, section 7).

From the paper: nine layers that split at the seventh, anchors of 128 and 256 times the root of two
in one branch, 16, 32 and 64 times in the other. Ours: widths, strides, SSD's head and losses.
"""

custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
# One output per anchor size: two from the first branch, three from the second.
_sizes = [size * 2**0.5 for size in (128, 256, 16, 32, 64)]
model = dict(
    type="SingleStageDetector",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type="TwoBranchNet", out_indices=(0, 0, 1, 1, 1)),
    bbox_head=dict(
        type="TwoBranchHead",
        in_channels=[128] * 5,
        num_classes=1,
        anchor_generator=dict(
            type="AnchorGenerator", strides=[8] * 5, base_sizes=_sizes, scales=[1.0], ratios=[1.0]
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type="PseudoSampler"),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        nms=dict(type="nms", iou_threshold=0.45),
        min_bbox_size=0,
        score_thr=0.02,
        max_per_img=200,
    ),
)
