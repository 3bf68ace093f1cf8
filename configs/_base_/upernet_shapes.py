"""A small UPerNet that learns Shapes in minutes on a CPU: ResNet-18 of half width, from scratch."""

# In a venv mmengine 0.10 takes an import of `os` for its lazy syntax.
os = __import__("os")

_base_ = ["./upernet_convnext.py", "./schedule_shapes.py"]

default_scope = "mmseg"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
# mmlearnconv.datasets.shapes_root() says the same.
data_root = os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmlearnconv", "shapes"
)

_norm_cfg = dict(type="BN", requires_grad=True)
# Nine tenths of the pixels are background, which the network would else predict everywhere.
_loss = dict(class_weight=[0.1, 1.0, 1.0, 1.0, 1.0, 1.0])
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=18,
        base_channels=32,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=_norm_cfg,
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        channels=64,
        num_classes=6,
        norm_cfg=_norm_cfg,
        loss_decode=_loss,
    ),
    auxiliary_head=dict(
        in_channels=128, channels=32, num_classes=6, norm_cfg=_norm_cfg, loss_decode=_loss
    ),
    test_cfg=dict(_delete_=True, mode="whole"),
)

optim_wrapper = dict(optimizer=dict(lr=0.004))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ShapesSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="labels/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ShapesSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="labels/val"),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

iterations = _base_.iterations
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=iterations, max_keep_ckpts=2),
)
