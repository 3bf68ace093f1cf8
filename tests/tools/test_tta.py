"""Test-time augmentation: a mirrored image gets the mirrored prediction."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope

from mmlearnconv import cli
from mmlearnconv.datasets import make_shapes
from tests.conftest import config_path

SMALL = dict(backbone=dict(base_channels=8))
SEGMENTOR = dict(decode_head=dict(in_channels=[8, 16, 32, 64]), auxiliary_head=dict(in_channels=32))
DETECTOR = dict(neck=dict(in_channels=[8, 16, 32, 64]))


def predict(cfg, image):
    """What a model of random weights finds, by the config's test pipeline behind its loader."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    pipeline = Compose(cfg.test_dataloader.dataset.pipeline[1:])
    size = image.shape[:2]
    given = dict(img=image, img_path="", img_id=0, img_shape=size, ori_shape=size, instances=[])
    labels = dict(seg_map_path=None, reduce_zero_label=False, seg_fields=[])
    with torch.no_grad():
        (found,) = model.test_step(pseudo_collate([pipeline(given | labels)]))
    return found


def small(name, further):
    cfg = Config.fromfile(config_path(name))
    cfg.merge_from_dict(dict(model=SMALL | further))
    for dataset in (cfg.test_dataloader.dataset, cfg.val_dataloader.dataset):
        dataset.pipeline = [s for s in dataset.pipeline if s["type"] != "LoadAnnotations"]
    return cfg


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_a_segmentor_is_blind_to_mirrors(image):
    cfg = small("upernet_shapes", SEGMENTOR)
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def differ():
        first, second = (predict(cfg, i).pred_sem_seg.data for i in (image, mirrored))
        return (first != second.flip(-1)).float().mean()

    assert differ() > 0.01
    cli.use_tta(cfg)
    assert differ() < 1e-3


def test_a_detector_is_blind_to_mirrors(image):
    cfg = small("quickstart_mask_rcnn_dcls", DETECTOR)
    with pytest.raises(ValueError, match="--tta: mmdet's DetTTAModel merges boxes, and this"):
        cli.use_tta(cfg)
    cfg.model.roi_head.mask_head = None
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cli.use_tta(cfg)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    first, second = (predict(cfg, i).pred_instances for i in (image, mirrored))
    boxes = second.bboxes.clone()
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    assert len(first) == len(second) > 0
    # In another order where scores are equal: each has its mirror image.
    distances = torch.cdist(first.bboxes, boxes).min(1).values
    assert distances.max() < 0.5


def test_a_config_s_own_augmentation_is_taken():
    cfg = small("upernet_shapes", SEGMENTOR)
    cfg.tta_model = dict(type="SegTTAModel", marked=1)
    cfg.tta_pipeline = [dict(type="Own")]
    model = cfg.model
    cli.use_tta(cfg)
    assert cfg.model == dict(type="SegTTAModel", marked=1, module=model)
    assert cfg.test_dataloader.dataset.pipeline == [dict(type="Own")]


def test_other_models_are_refused():
    cfg = Config(dict(default_scope="mmengine", model={}, test_dataloader=dict(dataset={})))
    with pytest.raises(ValueError, match="--tta: default_scope is 'mmengine'; give tta_model"):
        cli.use_tta(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "further", "figure"),
    [
        ("upernet_shapes", SEGMENTOR, "mIoU:"),
        ("quickstart_mask_rcnn_dcls", DETECTOR, "coco/bbox_mAP:"),
    ],
)
def test_the_tool_tests_with_it(name, further, figure, tmp_path, run_tool):
    root = make_shapes(tmp_path / "data", dict(train=2, val=2))
    cfg = Config.fromfile(config_path(name))
    cfg.merge_from_dict(dict(model=SMALL | further))
    if "roi_head" in cfg.model:
        cfg.model.roi_head.mask_head = None
        cfg.test_evaluator.metric = "bbox"
    init_default_scope(cfg.default_scope)
    weights = tmp_path / "weights.pth"
    torch.save(dict(meta={}, state_dict=MODELS.build(cfg.model).state_dict()), weights)
    config = tmp_path / "small.py"
    cfg.dump(config)
    options = ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    said = run_tool(
        *("test", config, weights, "--tta", "--data-root", root, "--work-dir", tmp_path / "out"),
        *("--cfg-options", *options),
    )
    assert figure in said, said[-3000:]
