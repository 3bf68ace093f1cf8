"""The two-branch detector with DKE in its branches, on Shapes: auto-dilation in minutes.

The log's `position_radius` of either branch starts at 1.07, the mean distance of a 3x3 grid's cells
from its centre, and shows how far training moves its kernels apart (DKE, section 7). Ours: anchors
for the shapes in the images, 18 to 72 pixels; the schedule, in which positions have 25 times the
learning rate of weights, because it is about a hundred times shorter than the paper's.
"""

_base_ = [
    "../_base_/two_branch.py",
    "../_base_/shapes_instance.py",
    "../_base_/schedule_shapes.py",
    "mmdet::_base_/default_runtime.py",
]
_sizes = [48, 64, 20, 26, 34]
model = dict(
    backbone=dict(branch_conv_cfg=dict(type="DKE", position_init="grid")),
    bbox_head=dict(num_classes=5, anchor_generator=dict(base_sizes=_sizes)),
)
custom_hooks = [dict(type="LearnableConvStatsHook", interval=50)]

iterations = 1000
train_cfg = dict(max_iters=iterations, val_interval=iterations)
val_evaluator = dict(metric=["bbox"])
test_evaluator = dict(metric=["bbox"])
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    paramwise_cfg=dict(optim_policy=dict(positions=dict(lr_mult=25.0, decay_mult=0.0))),
    clip_grad=dict(max_norm=5.0),
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(by_epoch=False, interval=iterations, max_keep_ckpts=2),
)
