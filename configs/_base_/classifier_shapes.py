"""A classifier of single shapes that learns in a minute or two on a CPU: the quickstart's backbone.

Its checkpoint starts the quickstart's detector and, but for the stem, upernet_shapes:
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

# In a venv mmengine 0.10 takes an import of `os` for its lazy syntax.
os = __import__("os")

_base_ = ["./schedule_shapes.py", "mmpretrain::_base_/default_runtime.py"]
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
# mmlearnconv.datasets.make_shape_classes() says the same.
data_root = os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    "mmlearnconv",
    "shapes_classes",
)

data_preprocessor = dict(
    num_classes=5, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=18, stem_channels=32, base_channels=32),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=5,
        in_channels=256,
        loss=dict(type="CrossEntropyLoss"),
        topk=(1,),
    ),
)

optim_wrapper = dict(optimizer=dict(lr=0.004))
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ShapesClsDataset",
        data_root=data_root,
        data_prefix="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ShapesClsDataset",
        data_root=data_root,
        data_prefix="val",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

iterations = _base_.iterations
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(by_epoch=False, interval=iterations, max_keep_ckpts=2),
)
