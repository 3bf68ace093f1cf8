"""180k iterations of 16 images (DRConv, section 4.3)."""

train_cfg = dict(type="IterBasedTrainLoop", max_iters=180000, val_interval=10000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.33, by_epoch=False, begin=0, end=500),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=180000,
        milestones=[120000, 140000, 150000],
        gamma=0.1,
    ),
]
# The paper's learning rate is 0.2 for a batch of 16, which is probably a misprint of 0.02.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
