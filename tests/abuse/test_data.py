"""Data that cannot be trained on: the file, what is wrong with it, and nothing is written."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmlearnconv.datasets.shapes import KINDS
from tests.conftest import ROOT, mostly_long

pytestmark = pytest.mark.slow


def annotations(root, change):
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace(name, content):
    def write(root):
        (root / name).write_bytes(content)

    return write


def edit(change):
    return lambda root: annotations(root, change)


def first_image(root):
    return min((root / "train").iterdir())


def cut_annotations(root):
    path = root / "annotations" / "train.json"
    path.write_text(path.read_text()[:-1000])


CASES = {
    "no images": (
        edit(lambda c: c.update(images=[], annotations=[])),
        "train_dataloader: .* lists no image",
    ),
    "no annotations": (
        edit(lambda c: c.update(annotations=[])),
        "train_dataloader: .* annotates no image",
    ),
    "cut": (cut_annotations, r"train\.json.*is damaged"),
    "empty": (replace("annotations/train.json", b""), r"train\.json.*is damaged"),
    "html": (replace("annotations/train.json", b"<html></html>"), r"train\.json.*is damaged"),
    "list": (replace("annotations/train.json", b"[]"), r"train\.json.*no annotations of COCO"),
    "other": (
        replace("annotations/train.json", b'{"a": 1}'),
        r"train\.json.*no annotations of COCO",
    ),
    "categories": (
        edit(lambda c: [k.update(name=k["name"] + "s") for k in c["categories"]]),
        r"has (none of the data set's classes|no category) ellipse, .*; its categories are ellips",
    ),
    "one category": (
        edit(lambda c: c["categories"][1].update(name="rectangel")),
        r"has no category rectangle, .*; its categories are ellipse, rectangel, triangle",
    ),
    "image missing": (lambda root: first_image(root).unlink(), r"train/.*\.png"),
    "image empty": (
        lambda root: first_image(root).write_bytes(b""),
        r"image .*train/.*\.png cannot be decoded",
    ),
    "image is html": (
        lambda root: first_image(root).write_text("<html></html>"),
        r"image .*train/.*\.png cannot be decoded",
    ),
    "image cut": (
        lambda root: first_image(root).write_bytes(first_image(root).read_bytes()[:60]),
        r"image .*train/.*\.png cannot be decoded",
    ),
    "image cut in its middle": (
        lambda root: os.truncate(first_image(root), first_image(root).stat().st_size // 2),
        r"image .*train/.*\.png cannot be decoded",
    ),
    "folder missing": (lambda root: shutil.rmtree(root / "train"), r"no data for train_dataloader"),
    "file for a folder": (
        lambda root: (shutil.rmtree(root / "train"), (root / "train").write_text("")),
        r"train/",
    ),
}


@pytest.mark.parametrize(
    ("case", "workers"),
    [(case, 0) for case in CASES]
    + mostly_long(
        [(case, 1) for case in CASES if case.startswith("image")], ("image cut in its middle", 1)
    ),
)
def test_data_that_cannot_be_trained_on(case, workers, config, shapes, stops, tmp_path):
    root = tmp_path / "data set é"
    shutil.copytree(shapes, root)
    spoil, message = CASES[case]
    spoil(root)
    options = [f"train_dataloader.num_workers={workers}"]
    for loader in ("train_dataloader", "val_dataloader"):
        # Shapes draws itself where it is incomplete; other data sets do not.
        options.append(f"{loader}.dataset.type=CocoDataset")
        options.append(f"{loader}.dataset.metainfo.classes={','.join(KINDS)}")
    said = stops(
        *("train", config, "--data-root", root, "--work-dir", "out", "--cfg-options", *options)
    )
    assert re.search(message, said), said
    # A batch without the image may come first.
    assert all(torch.load(path, weights_only=False) for path in (tmp_path / "out").glob("*.pth"))


@pytest.mark.parametrize(
    "case", mostly_long([c for c in CASES if c != "no annotations"], "cut", "image cut")
)
def test_data_that_cannot_be_tested_with(case, config, weights, shapes, stops, tmp_path):
    root = tmp_path / "data set é"
    shutil.copytree(shapes, root)
    spoil, message = CASES[case]
    spoil(root)
    options = [
        "test_dataloader.dataset.type=CocoDataset",
        f"test_dataloader.dataset.metainfo.classes={','.join(KINDS)}",
        # The spoiled half is tested with.
        "test_dataloader.dataset.ann_file=annotations/train.json",
        "test_dataloader.dataset.data_prefix.img=train/",
        f"test_evaluator.ann_file={root}/annotations/train.json",
    ]
    said = stops(
        *("test", config, weights, "--data-root", root, "--work-dir", "out"),
        *("--out", "found.pkl", "--cfg-options", *options),
    )
    assert re.search(message.replace("train_", "test_"), said), said
    assert not (tmp_path / "found.pkl").exists()


SEGMENTATION = """
_base_ = {base!r}
model = dict(
    backbone=dict(base_channels=8),
    decode_head=dict(in_channels=[8, 16, 32, 64]),
    auxiliary_head=dict(in_channels=32),
)
train_cfg = dict(max_iters=2, val_interval=2)
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=4, **_loader)
val_dataloader = dict(**_loader)
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=1))
"""


def first_map(root, split="train"):
    return min((root / "labels" / split).iterdir())


def relabel(path, value):
    labels = np.array(Image.open(path))
    labels[:3, :5] = value
    Image.fromarray(labels).save(path)


MAPS = {
    "missing": (lambda root: first_map(root).unlink(), r"labels/train/.*\.png"),
    "empty": (
        lambda root: first_map(root).write_bytes(b""),
        r"label map .*labels/train/.*\.png cannot be decoded",
    ),
    "html": (
        lambda root: first_map(root).write_text("<html></html>"),
        r"label map .*labels/train/.*\.png cannot be decoded",
    ),
    "cut": (
        lambda root: os.truncate(first_map(root), first_map(root).stat().st_size // 2),
        r"label map .*labels/train/.*\.png cannot be decoded",
    ),
    "values of pixels": (
        lambda root: relabel(first_map(root), 200),
        r"labels/train/.*\.png: 15 pixels are not in one of the 6 classes .* values are 200\. Set",
    ),
    "values of pixels in validation": (
        lambda root: relabel(first_map(root, "val"), 6),
        r"labels/val/.*\.png: 15 pixels are not in one of the 6 classes .* values are 6\. Set",
    ),
}


@pytest.mark.parametrize(
    ("case", "workers", "backend"),
    [(case, 0, "pillow") for case in MAPS]
    + [("cut", 1, "pillow"), ("cut", 0, "cv2"), ("empty", 0, "cv2"), ("html", 1, "cv2")],
)
def test_label_maps_that_cannot_be_trained_on(case, workers, backend, shapes, stops, tmp_path):
    root = tmp_path / "data set é"
    shutil.copytree(shapes, root)
    spoil, message = MAPS[case]
    spoil(root)
    config = tmp_path / "segmentation.py"
    base = ROOT / "configs" / "_base_" / "upernet_shapes.py"
    config.write_text(SEGMENTATION.format(base=str(base)))
    options = [f"train_dataloader.num_workers={workers}"]
    for loader in ("train_dataloader", "val_dataloader"):
        # Shapes draws itself where it is incomplete; other data sets do not.
        options.append(f"{loader}.dataset.type=BaseSegDataset")
        options.append(f"{loader}.dataset.img_suffix=.png")
        options.append(f"{loader}.dataset.metainfo.classes={','.join(['background', *KINDS])}")
        options.append(f"{loader}.dataset.pipeline.1.imdecode_backend={backend}")
    said = stops(
        *("train", config, "--data-root", root, "--work-dir", "out", "--cfg-options", *options)
    )
    assert re.search(message, said), said
    assert all(torch.load(path, weights_only=False) for path in (tmp_path / "out").glob("*.pth"))
