"""Data sets in wrappers train and are evaluated, whatever their parts say of themselves."""

import copy

import pytest
from mmengine.config import Config

from mmlearnconv.datasets import make_shapes
from mmlearnconv.datasets.shapes import KINDS
from tests.conftest import config_path, mostly_long

SMALL = """
_base_ = {base!r}
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
train_cfg = dict(max_iters=1, val_interval=1)
"""


def wrap(name, part):
    """A data set in a wrapper; parts of a chain differ in their palette."""
    other = copy.deepcopy(part)
    other.metainfo.palette = [(i, 0, 0) for i in range(len(KINDS))]
    if name == "parts that differ":
        return dict(type="ConcatDataset", datasets=[part, other])
    if name == "equal parts":
        return dict(type="ConcatDataset", datasets=[part, copy.deepcopy(part)])
    if name == "repeated":
        return dict(type="RepeatDataset", times=2, dataset=part)
    if name == "balanced":
        return dict(type="ClassBalancedDataset", oversample_thr=0.5, dataset=part)
    if name == "mixed":
        steps = part.pop("pipeline")
        part.pipeline, later = steps[:2], steps[2:]
        return dict(type="MultiImageMixDataset", dataset=part, pipeline=later)
    return dict(type="RepeatDataset", times=2, dataset=wrap("parts that differ", part))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", dict(train=4, val=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "val"),
    mostly_long(
        [
            ("parts that differ", "equal parts"),
            ("nested", "repeated"),
            ("repeated", None),
            ("balanced", None),
            ("mixed", None),
        ],
        ("parts that differ", "equal parts"),
        ("nested", "repeated"),
    ),
)
def test_a_run_on_wrapped_data(train, val, root, tmp_path, run_tool):
    small = tmp_path / "small.py"
    small.write_text(SMALL.format(base=str(config_path("quickstart_mask_rcnn_dcls"))))
    cfg = Config.fromfile(small)
    for loader, name in ((cfg.train_dataloader, train), (cfg.val_dataloader, val)):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(type="CocoDataset", metainfo=dict(classes=KINDS))
        if name is not None:
            loader.dataset = wrap(name, loader.dataset)
    cfg.train_dataloader.batch_size = 2
    config = tmp_path / "wrapped.py"
    cfg.dump(config)
    said = run_tool("train", config, "--data-root", root, "--work-dir", tmp_path / "out")
    assert not said.startswith("error"), said
    assert "coco/bbox_mAP" in said, said[-2000:]
    assert (tmp_path / "out" / "iter_1.pth").is_file()
