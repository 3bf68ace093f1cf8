import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmlearnconv.datasets import Style, make_shape_classes, make_shapes, shapes_root
from mmlearnconv.datasets.shapes import KINDS, ShapesDataset, ShapesSegDataset

SPLITS = dict(train=60, val=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", SPLITS)


@pytest.mark.xdist_group("shapes")
def test_annotations_are_coco_s(root):
    coco = COCO(str(root / "annotations" / "train.json"))
    assert [c["name"] for c in coco.cats.values()] == list(KINDS)
    assert any(a["iscrowd"] for a in coco.anns.values())
    owner = {}
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())
        assert annotation["area"] == mask.sum() > 0
        # Masks are of the visible part: they never overlap.
        taken = owner.setdefault(annotation["image_id"], np.zeros_like(mask))
        assert not (taken & mask).any()
        taken |= mask


@pytest.mark.xdist_group("shapes")
def test_label_maps_agree_with_the_masks(root):
    coco = COCO(str(root / "annotations" / "val.json"))
    for image in coco.imgs.values():
        labels = cv2.imread(str(root / "labels" / "val" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        expected = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image["id"]]:
            expected[coco.annToMask(annotation).astype(bool)] = annotation["category_id"]
        assert np.array_equal(labels, expected)


@pytest.mark.xdist_group("shapes")
def test_every_kind_appears_and_every_image_has_an_object(root):
    content = json.loads((root / "annotations" / "train.json").read_text())
    assert {a["category_id"] for a in content["annotations"]} == set(range(1, len(KINDS) + 1))
    assert {a["image_id"] for a in content["annotations"]} == set(range(SPLITS["train"]))


@pytest.mark.xdist_group("shapes")
def test_the_same_pixels_every_time_and_drawn_once(root, tmp_path):
    again = make_shapes(tmp_path / "again", dict(train=2, val=2))
    for name in ("train/00001.png", "val/00001.png", "labels/val/00000.png"):
        assert (again / name).read_bytes() == (root / name).read_bytes()
    stamp = (again / "annotations" / "val.json").stat().st_mtime_ns
    assert make_shapes(again, dict(train=2, val=2)) == again
    assert (again / "annotations" / "val.json").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        make_shapes(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_config_and_the_package_name_one_cache(monkeypatch, tmp_path):
    from mmengine.config import Config

    from tests.conftest import ROOT

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "shapes_instance.py")
    assert cfg.data_root == str(shapes_root()) == str(tmp_path / "mmlearnconv" / "shapes")


@pytest.mark.xdist_group("shapes")
def test_data_sets_of_both_toolboxes(root):
    detection = ShapesDataset(
        data_root=str(root), ann_file="annotations/val.json", data_prefix=dict(img="val/")
    )
    assert len(detection) == SPLITS["val"]
    assert detection.metainfo["classes"] == KINDS
    segmentation = ShapesSegDataset(
        data_root=str(root), data_prefix=dict(img_path="val", seg_map_path="labels/val")
    )
    assert len(segmentation) == SPLITS["val"]
    assert segmentation.metainfo["classes"] == ("background", *KINDS)


@pytest.mark.xdist_group("shapes")
def test_objects_are_cut_out_into_folders_of_their_kinds(root, tmp_path):
    folder = make_shape_classes(tmp_path / "classes", root)
    coco = COCO(str(root / "annotations" / "val.json"))
    single = [a for a in coco.anns.values() if not a["iscrowd"]]
    assert len(single) == len(list((folder / "val").rglob("*.png")))
    compared = 0
    for a in single:
        kind = KINDS[a["category_id"] - 1]
        crop = cv2.imread(str(folder / "val" / kind / f"{a['id']:05d}.png"))
        assert crop.shape == (64, 64, 3)
        x, y, w, h = a["bbox"]
        side = 1.25 * max(w, h)
        left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
        if min(left, top) < 0 or max(left, top) + side > 159:
            continue
        # The middle of the crop is that of the box.
        image = cv2.imread(str(root / "val" / coco.imgs[a["image_id"]]["file_name"]))
        middle = image[y + h // 4 : y + 3 * h // 4, x + w // 4 : x + 3 * w // 4].mean((0, 1))
        half, tall = 32 * w / side, 32 * h / side
        rows = slice(round(32 - tall / 2), round(32 + tall / 2))
        columns = slice(round(32 - half / 2), round(32 + half / 2))
        np.testing.assert_allclose(crop[rows, columns].mean((0, 1)), middle, atol=8)
        compared += 1
    assert compared >= 5
    stamp = (folder / "val").stat().st_mtime_ns
    assert make_shape_classes(folder, root) == folder
    assert (folder / "val").stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match=str(root)):
        make_shape_classes(root)


def test_a_split_s_style_sets_sizes_and_turns(tmp_path):
    splits = dict(train=1, val=1, upright=30, small=30)
    styles = dict(
        upright=Style(radii=(20, 20), turns=(0, 0)), small=Style(radii=(7, 9), turns=(0, 0))
    )
    folder = make_shapes(tmp_path / "styled", splits, styles)
    areas = {}
    for split in styles:
        coco = COCO(str(folder / "annotations" / f"{split}.json"))
        single = [a for a in coco.anns.values() if not a["iscrowd"]]
        areas[split] = np.median([a["area"] for a in single])
        # A rectangle of radius r that is not turned: 2 r wide, at most 1.1 r high.
        for a in single:
            if KINDS[a["category_id"] - 1] == "rectangle" and split == "upright":
                assert a["bbox"][2] <= 42
                assert a["bbox"][3] <= 24
    assert areas["small"] < areas["upright"] / 4
