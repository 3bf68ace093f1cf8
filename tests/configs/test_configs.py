"""Every config of a detector or segmentor: built, a training step, a prediction, on real images."""

from fnmatch import fnmatch

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope

from tests.conftest import ROOT, config_path, mostly_long

CLASSIFIERS = "*_in1k.py", "*_cifar10.py", "*_cifar100.py"
CONFIGS = sorted(
    path.stem
    for path in (ROOT / "configs").rglob("*.py")
    if path.parent.name != "_base_" and not any(map(path.match, CLASSIFIERS))
)
# ConvNeXt-T's with larger networks; HRNet's variants, which ResNet-50 has, too.
ALIKE = "*_convnext_[sb]", "*_conv*_hrnet_*", "fcn_coc_orth_hrnet_*"
QUICK = [name for name in CONFIGS if not any(fnmatch(name, pattern) for pattern in ALIKE)]
SCALE = (160, 128)


def coco(cfg, root):
    masks = any(step.get("with_mask") for step in cfg.train_dataloader.dataset.pipeline)
    return dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=cfg.train_dataloader.dataset.get("metainfo"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
            dict(type="Resize", scale=SCALE, keep_ratio=True),
            dict(type="PackDetInputs"),
        ],
    )


def ade(cfg, root):
    return dict(
        type="ADE20KDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="Resize", scale=SCALE, keep_ratio=False),
            dict(type="PackSegInputs"),
        ],
    )


def make_small(value):
    """Few regions of interest, whole small images."""
    if isinstance(value, dict):
        if "pos_fraction" in value:
            value["num"] = 16
        for key in ("max_per_img", "nms_pre"):
            if key in value:
                value[key] = min(value[key], 20)
        if value.get("type") == "SegDataPreProcessor":
            value["size"] = SCALE[::-1]
        if value.get("mode") == "slide":
            value["mode"] = "whole"
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            make_small(item)


def classes_of(model):
    head = model.roi_head if hasattr(model, "roi_head") else model
    head = head.bbox_head
    return (head[0] if isinstance(head, torch.nn.ModuleList) else head).num_classes


@pytest.mark.parametrize("name", mostly_long(CONFIGS, *QUICK))
def test_builds_trains_and_predicts(name, request):
    cfg = Config.fromfile(config_path(name))
    scope = cfg.get("default_scope")
    init_default_scope(scope)
    if scope == "mmseg":
        dataset = ade(cfg, request.getfixturevalue("tiny_ade"))
    else:
        dataset = coco(cfg, request.getfixturevalue("tiny_coco"))
    dataset = DATASETS.build(dataset)
    make_small(cfg.model)
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    data = pseudo_collate([dataset[i] for i in range(2)])
    if scope == "mmseg":
        for sample in data["data_samples"]:
            labels = sample.gt_sem_seg.data
            labels[labels >= model.decode_head.num_classes] = 255
    else:
        for sample in data["data_samples"]:
            sample.gt_instances.labels %= classes_of(model)

    losses = model(**model.data_preprocessor(data, True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())

    model.eval()
    with torch.no_grad():
        (found,) = model.test_step(pseudo_collate([dataset[0]]))
    if scope == "mmseg":
        assert found.pred_sem_seg.shape == found.ori_shape
    else:
        assert found.pred_instances.bboxes.isfinite().all()
