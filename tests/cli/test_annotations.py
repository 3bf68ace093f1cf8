"""Annotations and classes, checked before a run by the rules of the library that reads them."""

import copy
import json
import re

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmlearnconv.cli import check_annotations, check_data
from mmlearnconv.cli.annotations import ClassError
from tests.conftest import ROOT

CLASSES = ("cat", "dog")
BOX = dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 30, 40], area=1200, iscrowd=0)
POLYGON = dict(segmentation=[[1, 2, 31, 2, 31, 42]])


def coco(*annotations, names=CLASSES):
    return dict(
        images=[dict(id=1, file_name="a.jpg", height=48, width=64)],
        annotations=[BOX | POLYGON | dict(id=i, **a) for i, a in enumerate(annotations, 1)],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)],
    )


def config(tmp_path, known, *, masks=True, evaluator=True, **dataset):
    """A config whose training and validation read one file."""
    path = tmp_path / "some.json"
    path.write_text(known if isinstance(known, str) else json.dumps(known))
    dataset = dict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="some.json",
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type="LoadAnnotations", with_mask=masks)],
    ) | dict(dataset)
    metric = ["bbox", "segm"] if masks else "bbox"
    return Config(
        dict(
            default_scope="mmdet",
            train_dataloader=dict(dataset=dataset),
            val_dataloader=dict(dataset=dataset | dict(test_mode=True)),
            val_evaluator=dict(type="CocoMetric", metric=metric, ann_file=str(path))
            if evaluator
            else [],
        )
    )


def without(key):
    return lambda known: known["annotations"][0].pop(key)


def put(**values):
    return lambda known: known["annotations"][0].update(values)


def put_image(**values):
    return lambda known: known["images"][0].update(values)


# What is changed in a file, and what is said of it.
FAULTS = {
    "no iscrowd": (without("iscrowd"), r"annotation 1 has no 'iscrowd'; .*\"iscrowd\": 0"),
    "no area": (without("area"), "annotation 1 has no 'area'; it is the area of the mask, or of"),
    "area of text": (put(area="12"), "annotation 1 has area='12', which is no number"),
    "no box": (without("bbox"), r"annotation 1 has no 'bbox'; a box is \[x, y, width, height\]"),
    "three numbers": (put(bbox=[1, 2, 3]), r"annotation 1 has bbox=\[1, 2, 3\]; a box is"),
    "no width": (put(bbox=[1, 2, None, 3]), r"annotation 1 has bbox=\[1, 2, None, 3\]; a box is"),
    "no image_id": (without("image_id"), "annotation 1 has no 'image_id'; add or correct"),
    "no category_id": (without("category_id"), "annotation 1 has no 'category_id'"),
    "no id": (without("id"), "annotation 0 has no 'id'"),
    "id of text": (put(id="a1"), "annotation a1.* has id='a1', which is no number; .* from 1"),
    "id twice": (put(id=2), "two annotations have the id 2"),
    "no mask": (without("segmentation"), "annotation 1 has no segmentation; .*without a mask head"),
    "empty mask": (put(segmentation=[]), "annotation 1 has no segmentation"),
    "bare polygon": (put(segmentation=[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]), "polygon that is not in a"),
    "half a code": (put(segmentation=dict(size=[48, 64])), "annotation 1 has segmentation={'size'"),
    "no height": (lambda known: known["images"][0].pop("height"), "image 1 has no 'height'"),
    "width of text": (put_image(width="64"), "image 1 has width='64', which is no number"),
    "image twice": (
        lambda known: known["images"].append(known["images"][0] | dict(file_name="b.jpg")),
        "two images have the id 1",
    ),
    "no category name": (lambda known: known["categories"][0].pop("name"), "category 1 has no 'n"),
    "category twice": (
        lambda known: known["categories"].append(dict(id=0, name="cat")),
        "several categories of the name cat",
    ),
    "annotation of text": (lambda known: known["annotations"].append("x"), "annotation 'x' is no"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_cannot_be_read(name, tmp_path):
    change, message = FAULTS[name]
    known = coco({}, {})
    check_annotations(config(tmp_path, known), "train", "val")
    change(known)
    with pytest.raises(ClassError, match=message) as error:
        check_annotations(config(tmp_path, known), "train", "val")
    assert str(tmp_path / "some.json") in str(error.value)


class Unregistered(CocoDataset):
    """As a config in pure Python may name it."""


def test_a_class_that_is_not_registered(tmp_path):
    cfg = config(tmp_path, coco({}))
    cfg.train_dataloader.dataset.type = Unregistered
    check_data(cfg, "train")
    check_annotations(cfg, "train")
    cfg.train_dataloader.dataset.ann_file = "none.json"
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        check_data(cfg, "train")


def test_how_many_are_wrong_is_said(tmp_path):
    known = coco({}, {}, {})
    for annotation in known["annotations"][1:]:
        del annotation["iscrowd"]
    with pytest.raises(ClassError, match=r"annotation 2 \(and 1 others\) has no 'iscrowd'"):
        check_annotations(config(tmp_path, known), "val")


def change(known, edit):
    edit(known)
    return known


def mutilate(known):
    for key in ("iscrowd", "segmentation"):
        del known["annotations"][0][key]


@DATASETS.register_module()
class OwnList(BaseDataset):
    """A user's, that loads in its own way."""

    def load_data_list(self):
        return []


def openmmlab(tmp_path):
    return dict(metainfo=dict(classes=CLASSES), data_list=[])


# Files that the library reads as they are: nothing may be said of them.
READ = {
    "no iscrowd in training": dict(known=change(coco({}), without("iscrowd")), evaluator=False),
    "ids of text in training": dict(known=change(coco({}), put(id="a1")), evaluator=False),
    "boxes only": dict(known=change(coco({}), without("segmentation")), masks=False),
    "a run-length code": dict(known=coco(dict(segmentation=dict(size=[48, 64], counts="x")))),
    "an ignored one": dict(known=coco(dict(ignore=1, segmentation=[])), evaluator=False),
    "of no area": dict(known=coco(dict(area=0, segmentation=[])), evaluator=False),
    "a box without width": dict(known=coco(dict(bbox=[1, 2, 0, 9], segmentation=[])), masks=False),
    "no public truth": dict(
        known={k: v for k, v in coco().items() if k != "annotations"}, evaluator=False
    ),
    "images without objects": dict(known=coco(), filter_cfg=dict(filter_empty_gt=False)),
    "more categories": dict(known=coco({}, names=(*CLASSES, "tree"))),
    "a last class missing": dict(
        known=coco({}, names=CLASSES), metainfo=dict(classes=(*CLASSES, "cow"))
    ),
    "an array of classes": dict(known=coco({}), metainfo=dict(classes=np.array(CLASSES))),
    "no classes, which are all": dict(
        known=coco({}, names=("a", "b", "c")), metainfo=dict(classes=()), evaluator=False
    ),
    "an image twice": dict(
        known=change(coco({}), lambda known: known["images"].append(dict(known["images"][0])))
    ),
    "beside the image": dict(
        known=coco({}, dict(bbox=[200, 200, 9, 9], area=None, segmentation=[])), evaluator=False
    ),
    "a number as text": dict(known=change(coco({}), put(id="1"))),
    "unused in evaluation": dict(
        known=change(coco(dict(category_id=3), {}, names=(*CLASSES, "tree")), lambda k: mutilate(k))
    ),
    "half a code in training": dict(
        known=coco(dict(segmentation=dict(size=[48, 64]))), evaluator=False
    ),
    "no path of ours": dict(known=coco({}), type="OwnList", ann_file=["a.json"], evaluator=False),
    "text of its own": dict(known={}, type="OwnList", metainfo="all", evaluator=False),
    "OpenMMLab's": dict(
        known=dict(metainfo=dict(classes=CLASSES), data_list=[]),
        type="BaseDetDataset",
        evaluator=False,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_that_can_be_read(name, tmp_path):
    check_annotations(config(tmp_path, **copy.deepcopy(READ[name])), "train", "val")


@DATASETS.register_module()
class OwnCoco(CocoDataset):
    """A user's, that needs no area."""

    def parse_data_info(self, raw_data_info):
        return raw_data_info


def test_what_only_the_evaluation_of_proposals_needs(tmp_path):
    known = change(coco({}), without("area"))
    known["annotations"][0]["id"] = "x"
    cfg = config(tmp_path, known)
    cfg.val_evaluator.metric = "proposal_fast"
    cfg.pop("val_dataloader")
    check_annotations(cfg, "val")
    cfg.val_evaluator.metric = "proposal"
    with pytest.raises(ClassError, match="has id='x'"):
        check_annotations(cfg, "val")


def test_classes_that_are_numbered_by_ids(tmp_path):
    """Objects365's files list them in different orders, and mmdet sorts them."""
    kind = dict(type="Objects365V1Dataset", evaluator=False)
    cfg = config(tmp_path, coco({}), **kind)
    other = coco({})
    other["categories"].reverse()
    (tmp_path / "other.json").write_text(json.dumps(other))
    cfg.val_dataloader.dataset.ann_file = "other.json"
    check_annotations(cfg, "train", "val")


@DATASETS.register_module()
class Repeating(CocoDataset):
    """A user's, whose annotations share ids."""

    ANN_ID_UNIQUE = False


def test_ids_that_need_not_be_unique(tmp_path):
    check_annotations(config(tmp_path, change(coco({}, {}), put(id=2)), type="Repeating"), "train")


def test_a_data_set_s_own_parser_is_not_judged(tmp_path):
    known = change(coco({}), without("area"))
    del known["images"][0]["height"]
    check_annotations(config(tmp_path, known, type="OwnCoco", evaluator=False), "train")


def test_classes_may_stand_in_a_file(tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES))
    check_annotations(config(tmp_path, coco({}), metainfo=dict(classes=str(names))), "train")
    with pytest.raises(ClassError, match=r"metainfo\.classes: 'cat' is text, .*\('cat',\), with a"):
        check_annotations(config(tmp_path, coco({}), metainfo=dict(classes="cat")), "train")


def test_formats_are_told_apart(tmp_path):
    with pytest.raises(ClassError, match=r"no metainfo, data_list; it looks like COCO's: give"):
        check_annotations(config(tmp_path, coco({}), type="BaseDetDataset"), "train")
    with pytest.raises(ClassError, match=r"no images, .*OpenMMLab's own .*'BaseDetDataset'"):
        check_annotations(config(tmp_path, openmmlab(tmp_path)), "train")


@pytest.mark.parametrize("wrapper", ["Concat", "Repeat", "ClassBalanced", "MultiImageMix", "both"])
def test_wrapped_data_sets(wrapper, tmp_path):
    cfg = config(tmp_path, coco({}))
    part = cfg.train_dataloader.dataset
    other = copy.deepcopy(part)
    other.metainfo.palette = [(1, 1, 1), (2, 2, 2)]
    wrapped = dict(
        Concat=dict(type="ConcatDataset", datasets=[part, other]),
        Repeat=dict(type="RepeatDataset", times=2, dataset=part),
        ClassBalanced=dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=part),
        MultiImageMix=dict(type="MultiImageMixDataset", dataset=part, pipeline=[]),
        both=dict(
            type="RepeatDataset",
            times=2,
            dataset=dict(type="ConcatDataset", datasets=[part, other]),
        ),
    )
    cfg.train_dataloader.dataset = wrapped[wrapper]
    check_annotations(cfg, "train")
    (tmp_path / "some.json").write_text(json.dumps(change(coco({}), without("area"))))
    with pytest.raises(ClassError, match="has no 'area'"):
        check_annotations(cfg, "train")


def test_files_that_order_categories_differently(tmp_path):
    """mmdet numbers classes in each file's order, whatever order the config has."""
    cfg = config(tmp_path, coco({}), evaluator=False)
    (tmp_path / "other.json").write_text(json.dumps(coco({}, names=CLASSES[::-1])))
    cfg.val_dataloader.dataset.ann_file = "other.json"
    with pytest.raises(ClassError, match=re.escape("different orders (cat, dog, and dog, cat)")):
        check_annotations(cfg, "train", "val")
    labels = [
        DATASETS.build(
            dict(d.dataset, type="mmdet.CocoDataset", pipeline=[], data_prefix={"img": ""})
        ).get_data_info(0)["instances"][0]["bbox_label"]
        for d in (cfg.train_dataloader, cfg.val_dataloader)
    ]
    # The first category of either file is class 0, of other names.
    assert labels == [0, 0]


def test_the_first_annotation_s_id_is_not_zero(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("mmlearnconv.cli.annotations.print_log", lambda line, *_: said.append(line))
    check_annotations(config(tmp_path, change(coco({}), put(id=0))), "val")
    assert [line for line in said if "id 0 counts as missed" in line]


def test_the_program_of_the_docs_mends_a_file(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mine" / "annotations"
    folder.mkdir(parents=True)
    known = coco({}, {}, {})
    first, second, third = known["annotations"]
    for annotation in known["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    first.update(id="a", segmentation=first["segmentation"][0])
    del second["segmentation"]
    third["area"] = 7.5
    (folder / "train.json").write_text(json.dumps(known))
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    _, _, section = page.partition("### Annotations that lack a key")
    monkeypatch.chdir(tmp_path)
    exec(re.search("```python\n(.*?)```", section, re.DOTALL)[1], {})
    mended = json.loads((folder / "train_mended.json").read_text())
    # Half of a box of 30 x 40, but for the pixels of the edge; a whole one; what was given.
    areas = [annotation["area"] for annotation in mended["annotations"]]
    assert areas[0] == pytest.approx(600, abs=40)
    assert areas[1:] == [1200, 7.5]
    assert json.loads((folder / "train.json").read_text()) == known
    check_annotations(config(tmp_path, mended, masks=False), "train", "val")


def folders(root, **dataset):
    dataset = dict(type="mmpretrain.CustomDataset", data_root=str(root)) | dataset
    return Config(dict(default_scope=None, train_dataloader=dict(dataset=dataset)))


class Folders(BaseDataset):
    """Stands for mmpretrain's ``CustomDataset``, which needs torchvision."""

    def load_data_list(self):
        return []


@pytest.fixture
def as_mmpretrain_s(monkeypatch):
    monkeypatch.setattr("mmlearnconv.cli.annotations._FOLDERS_LOADER", "tests.Folders")


def test_folders_of_classes(as_mmpretrain_s, tmp_path):
    kind = dict(type=Folders, metainfo=dict(classes=CLASSES))
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(ClassError, match="train has no image in its folders"):
        check_annotations(folders(tmp_path, data_prefix="train", **kind), "train")
    (tmp_path / "train" / "cat" / "a.jpg").write_text("x")
    check_annotations(folders(tmp_path, data_prefix="train", **kind), "train")
    # Links, as to a disk with more room.
    (tmp_path / "links").mkdir()
    for name in CLASSES:
        (tmp_path / "links" / name).symlink_to(tmp_path / "train" / name)
    check_annotations(folders(tmp_path, data_prefix="links", **kind), "train")
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(
        ClassError, match=r"3 folders \(cat, cow, dog\), and .* 2 classes .*Correct"
    ):
        check_annotations(folders(tmp_path, data_prefix=dict(img_path="train"), **kind), "train")
    # ImageNet finds its list of files by the split's name, and unlabelled data have no folders.
    for other in (dict(split="train"), dict(with_label=False), dict(ann_file="list.txt")):
        check_annotations(folders(tmp_path, data_prefix="train", **kind, **other), "train")
