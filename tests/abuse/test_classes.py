"""Folders of classes that cannot be trained on or tested with, and CIFAR where no network is."""

import os
import re
import shutil

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmlearnconv.datasets import make_shape_classes
from mmlearnconv.datasets.shapes import KINDS
from tests import libraries
from tests.conftest import ROOT, mostly_long
from tests.processes import run_file
from tests.tools.test_command_lines import ONE_PROCESS

pytestmark = pytest.mark.slow

CONFIG = "_base_/classifier_shapes"
LOADERS = "train_dataloader", "val_dataloader", "test_dataloader"
SMALL = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=64"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, shapes):
    libraries.need()
    return make_shape_classes(tmp_path_factory.mktemp("folders") / "classes", shapes)


def first(root, split):
    return min((root / split / KINDS[0]).iterdir())


def another_class(root, split):
    (root / split / "zigzag").mkdir()
    shutil.copy(first(root, split), root / split / "zigzag")


def remove_images(root, split):
    for path in (root / split).glob("*/*"):
        path.unlink()


# What is done to a split, and what is said. CustomDataset takes the folders as classes where
# `classes` does not name them.
CASES = {
    "image empty": (lambda *of: first(*of).write_bytes(b""), "image .* cannot be decoded", True),
    "image is html": (
        lambda *of: first(*of).write_text("<html></html>"),
        r"image .*/{split}/.*\.png cannot be decoded",
        True,
    ),
    "image cut": (
        lambda *of: os.truncate(first(*of), first(*of).stat().st_size // 2),
        r"image .*/{split}/.*\.png cannot be decoded",
        True,
    ),
    "a folder more than classes": (
        another_class,
        r"{loader}: .*/{split} has 6 folders \(.*\), and the data set 5 classes",
        True,
    ),
    "a folder more than the head's classes": (
        another_class,
        r"image .*/{split}/zigzag/.*: label 5 is not one of the 5 classes .*num_classes",
        False,
    ),
    "a folder less": (
        lambda root, split: shutil.rmtree(root / split / KINDS[0]),
        r"{loader}: .*/{split} has 4 folders \(.*\), and the data set 5 classes",
        True,
    ),
    "no images": (remove_images, "{loader}: .*/{split} has no image in its folders", True),
    "no folder": (lambda root, split: shutil.rmtree(root / split), r".*/{split}", True),
}


def folder_options(named):
    options = ONE_PROCESS
    for loader in LOADERS:
        options = [*options, f"{loader}.dataset.type=CustomDataset"]
        if named:
            options.append(f"{loader}.dataset.metainfo.classes={','.join(sorted(KINDS))}")
    return options


def stops(tool, config, *arguments, root, out, options, **environment):
    """Run a tool that must end with one sentence, which is returned."""
    status, output = run_file(
        [
            *(f"tools/{tool}.py", f"configs/{config}.py", *map(str, arguments)),
            *("--data-root", str(root), "--work-dir", str(out), "--cfg-options", *options),
        ],
        ROOT,
        os.environ | dict(PYTHONPATH=str(ROOT)) | environment,
        with_libraries=True,
    )
    assert status == 1, output[-5000:]
    assert "Traceback" not in output
    (sentence,) = re.findall("^error: .*", output, re.MULTILINE)
    return sentence


def spoiled(folders, tmp_path, case, split):
    root = tmp_path / "data set é"
    shutil.copytree(folders, root)
    spoil, message, named = CASES[case]
    spoil(root, split)
    return root, message, named


@pytest.mark.parametrize(
    ("case", "split"),
    mostly_long(
        [(case, split) for case in CASES for split in ("train", "val")],
        *(("image cut", "train"), ("a folder more than classes", "train")),
        *(("a folder more than the head's classes", "train"), ("no images", "val")),
    ),
)
def test_folders_that_cannot_be_trained_on(case, split, folders, tmp_path):
    root, message, named = spoiled(folders, tmp_path, case, split)
    options = [*folder_options(named), *SMALL]
    said = stops("train", CONFIG, root=root, out=tmp_path / "out", options=options)
    assert re.search(message.format(split=split, loader=f"{split}_dataloader"), said), said
    # Training ends before it has begun where the training images are at fault.
    saved = [path.name for path in (tmp_path / "out").glob("*.pth")]
    assert saved == [] or (split == "val" and case.startswith(("image", "a folder more than the")))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of the config's classifier, whose backbone mmdet has too."""
    backbone = MODELS.build(dict(type="mmdet.ResNet", depth=18, stem_channels=32, base_channels=32))
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    head = nn.Linear(256, len(KINDS)).state_dict()
    state |= {f"head.fc.{key}": value for key, value in head.items()}
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(dict(meta={}, state_dict=state), path)
    return path


@pytest.mark.parametrize("case", mostly_long(CASES, "image cut"))
def test_folders_that_cannot_be_tested_with(case, folders, weights, tmp_path):
    root, message, named = spoiled(folders, tmp_path, case, "val")
    out = tmp_path / "out"
    said = stops("test", CONFIG, weights, root=root, out=out, options=folder_options(named))
    assert re.search(message.format(split="val", loader="(val|test)_dataloader"), said), said
    assert not list(out.rglob("*.json"))


def test_cifar_without_a_network(tmp_path):
    libraries.need()
    nowhere = dict.fromkeys(["http_proxy", "https_proxy"], "http://127.0.0.1:9")
    root, out = tmp_path / "data", tmp_path / "out"
    config = "dke/resnet18_dke_cifar10"
    said = stops("train", config, root=root, out=out, options=ONE_PROCESS, **nowhere)
    assert re.search(r"a download failed \(.*refused\)", said), said
    assert not [path for path in root.rglob("*") if path.is_file()]
