"""Data that cannot be trained on: the file, what is wrong with it, and nothing is written."""

import json
import os
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmlearnconv.datasets.shapes import KINDS
from tests.conftest import ROOT, mostly_long

pytestmark = pytest.mark.slow
KINDS_IN_ORDER = list(KINDS)


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
    "no iscrowd": (
        edit(lambda c: [a.pop("iscrowd") for a in c["annotations"]]),
        r"test_evaluator: .*annotation 1 .*has no 'iscrowd'",
    ),
    "no area": (
        edit(lambda c: [a.pop("area") for a in c["annotations"]]),
        r"_dataloader: .*train\.json: annotation 1 .*has no 'area'",
    ),
    "no mask": (
        edit(lambda c: c["annotations"][0].update(segmentation=[])),
        r"_dataloader: .*train\.json: annotation 1 has no segmentation",
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
    mostly_long(
        # Training does not read what evaluation does.
        [(case, 0) for case in CASES if case != "no iscrowd"]
        + [(case, 1) for case in CASES if case.startswith("image")],
        ("cut", 0),
        ("image missing", 0),
        ("image cut in its middle", 1),
        ("folder missing", 0),
        ("file for a folder", 0),
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


def test_an_error_of_the_model_shows_as_it_is(config, shapes, monkeypatch, tmp_path):
    """It was once taken for one of the data, which may be in OpenMMLab's own format."""
    known = json.loads((shapes / "annotations" / "train.json").read_text())
    labels = {c["id"]: KINDS_IN_ORDER.index(c["name"]) for c in known["categories"]}
    entries = []
    for image in known["images"]:
        found = [a for a in known["annotations"] if a["image_id"] == image["id"]]
        boxes = [([x, y, x + w, y + h], a) for a in found for x, y, w, h in [a["bbox"]]]
        instances = [
            dict(
                bbox=box,
                bbox_label=labels[a["category_id"]],
                ignore_flag=0,
                mask=a["segmentation"],
            )
            for box, a in boxes
        ]
        names = dict(img_path=image["file_name"], img_id=image["id"])
        size = dict(width=image["width"], height=image["height"])
        entries.append(names | size | dict(instances=instances))
    own = tmp_path / "train.json"
    own.write_text(json.dumps(dict(metainfo=dict(classes=KINDS_IN_ORDER), data_list=entries)))
    changed = tmp_path / "changed.py"
    changed.write_text(
        f"_base_ = {str(config)!r}\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='BaseDetDataset',\n"
        f"    data_root={str(shapes)!r}, ann_file={str(own)!r},\n"
        "    data_prefix=dict(img_path='train/'), pipeline=_base_.train_pipeline))\n"
    )
    monkeypatch.chdir(tmp_path)
    tool = str(ROOT / "tools" / "train.py")
    arguments = [tool, str(changed), "--work-dir", "out"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(tool, run_name="__main__")
    wrong = ["--cfg-options", "model.roi_head.bbox_head.in_channels=32"]
    monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        runpy.run_path(tool, run_name="__main__")


def first_map(root, split="train"):
    return min((root / "labels" / split).iterdir())


def relabel(path, value, dtype=np.uint8):
    labels = np.array(Image.open(path)).astype(dtype)
    labels[:3, :5] = value
    Image.fromarray(labels).save(path)


def restack(path, channels):
    labels = np.array(Image.open(path))
    Image.fromarray(np.stack([labels] * channels, -1)).save(path)


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
    "three channels": (
        lambda root: restack(first_map(root), 3),
        r"label map .*labels/train/.*\.png has 3 channels; it must have one",
    ),
    "16 bits": (
        lambda root: relabel(first_map(root), 256, np.uint16),
        r"label map .*labels/train/.*\.png has values up to 256, of which the loader keeps 8",
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
    mostly_long(
        [(case, 0, "pillow") for case in MAPS]
        + [("cut", 1, "pillow"), ("cut", 0, "cv2"), ("empty", 0, "cv2"), ("html", 1, "cv2")]
        + [("three channels", 0, "cv2"), ("16 bits", 1, "cv2")],
        ("cut", 1, "pillow"),
        ("three channels", 0, "pillow"),
        ("16 bits", 1, "cv2"),
        ("values of pixels in validation", 0, "pillow"),
    ),
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


CASCADE = """
_head = dict(
    in_channels=[8, 16, 32, 64], in_index=(0, 1, 2, 3), channels=16, norm_cfg=dict(type="BN"),
    input_transform="resize_concat", num_classes=6, align_corners=False)
model = dict(
    type="CascadeEncoderDecoder", num_stages=2, auxiliary_head=None, decode_head=[
        dict(type="FCNHead", kernel_size=1, num_convs=1, concat_input=False, **_head),
        dict(type="OCRHead", ocr_channels=16, **_head)])
"""
POINTS = """
_base = dict(num_classes=6, align_corners=False)
model = dict(
    type="CascadeEncoderDecoder", num_stages=2, auxiliary_head=None, decode_head=[
        dict(type="FPNHead", in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=16,
             feature_strides=[4, 8, 16, 32], norm_cfg=dict(type="BN"), **_base),
        dict(type="PointHead", in_channels=[16], in_index=[0], channels=16, num_fcs=1,
             coarse_pred_each_layer=True, **_base)],
    neck=dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
    train_cfg=dict(num_points=64, oversample_ratio=3, importance_sample_ratio=0.75),
    test_cfg=dict(mode="whole", subdivision_steps=1, subdivision_num_points=64, scale_factor=2))
"""
AUXILIARY = """
_aux = dict(type="FCNHead", num_convs=1, channels=8, num_classes=6, norm_cfg=dict(type="BN"))
model = dict(auxiliary_head=[
    dict(in_channels=16, in_index=1, **_aux), dict(in_channels=32, in_index=2, **_aux)])
"""


@pytest.mark.parametrize("heads", mostly_long([CASCADE, POINTS, AUXILIARY], CASCADE))
def test_several_heads_and_a_label_that_is_no_class(heads, shapes, stops, tmp_path):
    """OCRNet's and PointRend's heads in turn, and auxiliary ones in a list, as ICNet's."""
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    base, config = tmp_path / "base.py", tmp_path / "heads.py"
    base.write_text(
        SEGMENTATION.format(base=str(ROOT / "configs" / "_base_" / "upernet_shapes.py"))
    )
    config.write_text(f"_base_ = {str(base)!r}\n{heads}")
    arguments = ["train", config, "--data-root", root, "--work-dir", "out", "--cfg-options"]
    options = []
    for loader in ("train_dataloader", "val_dataloader"):
        options.append(f"{loader}.dataset.type=BaseSegDataset")
        options.append(f"{loader}.dataset.img_suffix=.png")
        options.append(f"{loader}.dataset.metainfo.classes={','.join(['background', *KINDS])}")
    relabel(first_map(root), 200)
    said = stops(*arguments, *options)
    assert re.search(r"labels/train/.*\.png: 15 pixels are not in one of the 6 classes", said), said
