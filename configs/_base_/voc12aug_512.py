"""PASCAL VOC 2012 with the augmented training set, 512x512, 40k iterations."""

_base_ = "./ade20k_512.py"
data_root = "data/VOCdevkit/VOC2012"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # After the resize, so that the ground truth keeps its size.
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

train_dataset = dict(
    type="PascalVOCDataset",
    data_root=data_root,
    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
    ann_file="ImageSets/Segmentation/train.txt",
    pipeline=train_pipeline,
)
augmented_dataset = dict(
    train_dataset,
    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassAug"),
    ann_file="ImageSets/Segmentation/aug.txt",
)
val_dataset = dict(train_dataset, ann_file="ImageSets/Segmentation/val.txt", pipeline=test_pipeline)
# 4 GPUs with 4 images each: batch 16.
train_dataloader = dict(
    batch_size=4,
    dataset=dict(_delete_=True, type="ConcatDataset", datasets=[train_dataset, augmented_dataset]),
)
val_dataloader = dict(dataset=dict(_delete_=True, **val_dataset))
test_dataloader = dict(dataset=dict(_delete_=True, **val_dataset))
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005),
)
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
