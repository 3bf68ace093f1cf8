"""Classifiers of mmpretrain on the command line, and from a classifier to a detector."""

import json
import math
import os
import re

import pytest
import torch

from mmlearnconv.catalog import operator_names
from mmlearnconv.datasets import Style, make_shape_classes, make_shapes
from tests import libraries
from tests.conftest import ROOT, mostly_long
from tests.processes import run_file
from tests.tools.test_command_lines import ONE_PROCESS, TINY, another_operator, scalars
from tests.tools.test_command_lines import run as launch

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("classifiers")]

CLASSIFIER = "configs/_base_/classifier_shapes.py"
DETECTOR = "configs/quickstart_mask_rcnn_dcls.py"
SMALL = [o for o in TINY if "indices" not in o]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    libraries.need()
    root = tmp_path_factory.mktemp("data")
    shapes = make_shapes(root / "shapes", dict(train=30, val=10))
    return shapes, make_shape_classes(root / "classes", shapes)


def run(*command, expect=0, **options):
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    options = dict(with_libraries=True) | options
    status, output = run_file(list(map(str, command)), ROOT, environment, **options)
    assert status == expect, output[-5000:]
    return output


def train(data, work_dir, *options, tool=()):
    command = ["tools/train.py", CLASSIFIER, "--data-root", data, "--work-dir", work_dir]
    return run(*command, *tool, "--cfg-options", *SMALL, *options)


def operator(name):
    return [f"model.backbone.conv_cfg.type={name}"]


OPERATORS = operator_names(baselines=False, takes_over=True)


@pytest.mark.parametrize("name", mostly_long(OPERATORS, "DCLS", "DRConv"))
def test_from_a_classifier_to_a_detector(name, data, tmp_path):
    shapes, classes = data
    train(classes, tmp_path / "cls", *operator(name))
    checkpoint = tmp_path / "cls" / "iter_2.pth"
    options = another_operator(name)
    init = "model.backbone.init_cfg"
    said = run(
        *("tools/train.py", DETECTOR, "--data-root", shapes, "--work-dir", tmp_path / "det"),
        *("--cfg-options", *TINY, *options, f"{init}.type=Pretrained"),
        f"{init}.checkpoint={checkpoint}",
        with_libraries=False,
    )
    held, of = re.search(r"ResNet: (\d+) of (\d+) tensors from", said).groups()
    assert held == of
    # Nothing of the detector is random in its backbone: with no rate, it is the classifier's.
    run(
        *("tools/train.py", DETECTOR, "--data-root", shapes, "--work-dir", tmp_path / "still"),
        *("--cfg-options", *TINY, *options, f"{init}.type=Pretrained"),
        *(f"{init}.checkpoint={checkpoint}", "optim_wrapper.optimizer.lr=0"),
        with_libraries=False,
    )
    ours = torch.load(tmp_path / "still" / "iter_2.pth", weights_only=False)["state_dict"]
    theirs = torch.load(checkpoint, weights_only=False)["state_dict"]
    compared = 0
    for key, value in theirs.items():
        # Batch norms have seen the detector's images.
        if key.startswith("backbone.") and "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-6)
            compared += 1
    assert compared > 60


def test_a_classifier_is_tested_folded_counted_and_compared(data, tmp_path):
    _, classes = data
    train(classes, tmp_path / "cls", *operator("CoC"))
    checkpoint = tmp_path / "cls" / "iter_2.pth"
    options = ["--cfg-options", *ONE_PROCESS]
    tested = run(
        "tools/test.py", CLASSIFIER, checkpoint, "--data-root", classes, *options, *operator("CoC")
    )
    accuracy = re.search(r"accuracy/top1: ([\d.]+)", tested)[1]
    folded = run(
        *("tools/fold.py", CLASSIFIER, checkpoint, tmp_path / "folded", "--cfg-options"),
        *operator("CoC"),
    )
    assert "folded 17 convolutions" in folded
    again = run(
        *("tools/test.py", tmp_path / "folded" / "classifier_shapes.py"),
        *(tmp_path / "folded" / "classifier_shapes.pth", "--data-root", classes, *options),
    )
    assert re.search(r"accuracy/top1: ([\d.]+)", again)[1] == accuracy
    counted = run("tools/get_flops.py", CLASSIFIER)
    assert "one image of 224 x 224" in counted
    compared = run(
        *("tools/compare.py", CLASSIFIER, "--size", 64, 64, "--conv", "DK", "CoC"),
        *("--json", tmp_path / "compared.json"),
    )
    assert "| CoC" in compared
    rows = {
        row["operator"]: row for row in json.loads((tmp_path / "compared.json").read_text())["rows"]
    }
    assert rows["CoC"]["reached"] > 10
    assert rows["plain"]["train"] > 0


def test_a_classifier_resumes(data, tmp_path):
    _, classes = data
    config = tmp_path / "resumed.py"
    config.write_text(
        f"_base_ = {str(ROOT / CLASSIFIER)!r}\ncustom_hooks = [dict(type='ReseedHook')]\n"
    )

    def train_to(iteration, work_dir, *tool):
        return run(
            *("tools/train.py", config, "--data-root", classes, "--work-dir", work_dir, *tool),
            *("--amp", "--cfg-options", *SMALL, *operator("DKE"), "randomness.seed=3"),
            f"train_cfg.max_iters={iteration}",
        )

    train_to(2, tmp_path / "whole")
    train_to(1, tmp_path / "cut")
    assert "resumed" in train_to(2, tmp_path / "cut", "--resume")
    whole, cut = (
        torch.load(tmp_path / name / "iter_2.pth", weights_only=False)["state_dict"]
        for name in ("whole", "cut")
    )
    assert whole.keys() == cut.keys()
    for key, value in whole.items():
        assert torch.equal(value, cut[key]), key


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    """Single objects as benchmarks/shapes.py trains on: 400 iterations are enough for them."""
    libraries.need()
    root = tmp_path_factory.mktemp("upright")
    style = Style((14, 30), (-math.radians(20), math.radians(20)))
    counts = dict(train=1200, val=200)
    shapes = make_shapes(root / "shapes", counts, dict.fromkeys(counts, style))
    return make_shape_classes(root / "classes", shapes)


@pytest.mark.long
@pytest.mark.parametrize(
    # Not all on one worker: they take 5 to 25 minutes each.
    "name",
    [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in OPERATORS],
)
def test_every_operator_learns_to_classify(name, upright, tmp_path):
    conv = dict(type=name)
    if name == "DKE":
        # From drawn positions it hardly begins to learn in so few iterations.
        conv["position_init"] = "grid"
    rule = dict(pattern="backbone.layer[234].*.conv[12]", conv=conv, kernel_size=3)
    config = tmp_path / "swapped.py"
    config.write_text(
        f"_base_ = {str(ROOT / CLASSIFIER)!r}\n"
        f"model = dict(type='SwapConv', target='ImageClassifier', swaps=[{rule}])\n"
    )
    options = [o for o in ONE_PROCESS if not o.startswith("test")]
    run(
        *("tools/train.py", config, "--data-root", upright, "--work-dir", tmp_path / "work"),
        *("--cfg-options", *options, "train_cfg.max_iters=500", "train_cfg.val_interval=500"),
        *("param_scheduler.1.end=500", "randomness.seed=0"),
        timeout=7200,
    )
    accuracy = scalars(tmp_path / "work")[-1]["accuracy/top1"]
    print(f"{name}: top-1 {accuracy:.1f} %")
    assert accuracy >= 90


def test_without_mmpretrain_it_is_named(tmp_path):
    said = run("tools/get_flops.py", CLASSIFIER, expect=1, with_libraries=False)
    assert "mmpretrain" in said
    assert "mmlearnconv[cls]" in said
    assert "Traceback" not in said


def test_two_processes_train_and_test_a_classifier(data, tmp_path):
    _, classes = data
    # The processes that the launcher starts are none of the test's forks.
    (tmp_path / "sitecustomize.py").write_text("from tests import libraries\nlibraries.find()\n")
    environment = dict(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    work_dir = tmp_path / "work"
    common = "--data-root", classes, "--work-dir", work_dir, "--cfg-options"
    launch(
        *("bash", "tools/dist_train.sh", CLASSIFIER, 2, *common, *SMALL, *operator("DCLS")),
        **environment,
    )
    assert "GPU number: 2" in next(work_dir.glob("*/*.log")).read_text()
    checkpoint = work_dir / "iter_2.pth"
    assert torch.load(checkpoint, weights_only=False)["meta"]["iter"] == 2
    said = launch(
        *("bash", "tools/dist_test.sh", CLASSIFIER, checkpoint, 2, *common, *ONE_PROCESS),
        *operator("DCLS"),
        **environment,
    )
    assert "accuracy/top1" in said


def test_predictions_are_drawn(data, tmp_path):
    _, classes = data
    train(classes, tmp_path / "cls")
    run(
        *("tools/test.py", CLASSIFIER, tmp_path / "cls" / "iter_2.pth", "--data-root", classes),
        *("--show-dir", tmp_path / "drawn", "--cfg-options", *ONE_PROCESS),
        "default_hooks.visualization.interval=1",
    )
    assert list((tmp_path / "drawn").rglob("*.png"))
