"""The command lines as a user types them, on the generated data and on real images."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, config_path
from tests.processes import run_file

QUICKSTART = "configs/quickstart_mask_rcnn_dcls.py"
ONE_PROCESS = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
]
FEW_IMAGES = ["val_dataloader.dataset.indices=2", "test_dataloader.dataset.indices=2"]
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=100",
    "default_hooks.checkpoint.interval=1",
    "default_hooks.logger.interval=1",
    "train_dataloader.batch_size=2",
    *FEW_IMAGES,
    *ONE_PROCESS,
]


def another_operator(name):
    """--cfg-options that put another convolution into the quickstart, without DCLS's own option."""
    return [
        "model.backbone.conv_cfg._delete_=True",
        f"model.backbone.conv_cfg.type={name}",
    ]


def run(*command, expect=0, **environment):
    command = [str(part) for part in command]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), PYTHON=sys.executable) | environment
    if command[0].endswith(".py"):
        status, output = run_file(command, ROOT, environment)
    else:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
        )
        status, output = result.returncode, result.stdout + result.stderr
    assert status == expect, output[-5000:]
    return output


def scalars(work_dir):
    """Everything that a run logged, line by line, of its newest start."""
    newest = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1]
    return [json.loads(line) for line in newest.read_text().splitlines()]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "output"
    # With a cache of its own it draws the data too.
    cache = str(folder.parent / "cache")
    return folder, run("tools/quickstart.py", folder, "--iterations", 60, XDG_CACHE_HOME=cache)


@pytest.mark.slow
@pytest.mark.xdist_group("quickstart")
def test_quickstart_tells_its_story(quickstart):
    folder, story = quickstart
    assert "mmengine - " not in story
    assert re.search(r"training +60 of 60, loss \d+\.\d\d, +0 s left", story)
    assert re.search(r"masks +0\.\d{3} +0\.\d{3} +0\.\d{3}", story)
    assert len(list((folder / "pictures").glob("*.png"))) == 8
    assert f"tools/test.py {QUICKSTART} {folder / 'iter_60.pth'}" in story
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d\d)", story)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.xdist_group("quickstart")
def test_a_fresh_process_measures_the_same_ap(quickstart, tmp_path):
    folder, _ = quickstart
    trained = scalars(folder)[-1]
    run(
        *("tools/test.py", QUICKSTART, folder / "iter_60.pth", "--work-dir", tmp_path),
        *("--out", tmp_path / "out.pkl", "--show-dir", tmp_path / "drawn"),
    )
    (report,) = tmp_path.glob("*/*.json")
    tested = json.loads(report.read_text())
    metrics = {key: value for key, value in tested.items() if key.startswith("coco/")}
    assert metrics == {key: trained[key] for key in metrics}
    assert metrics["coco/segm_mAP_50"] > 0
    with (tmp_path / "out.pkl").open("rb") as file:
        assert len(pickle.load(file)) == 100
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 100


@pytest.mark.slow
def test_resume_continues(tmp_path):
    run("tools/train.py", QUICKSTART, "--work-dir", tmp_path, "--cfg-options", *TINY)
    options = [o.replace("max_iters=2", "max_iters=4") for o in TINY]
    output = run(
        "tools/train.py", QUICKSTART, "--work-dir", tmp_path, "--resume", "--cfg-options", *options
    )
    assert "resumed epoch: 0, iter: 2" in output
    assert [line["step"] for line in scalars(tmp_path) if "loss" in line] == [3, 4]


@pytest.mark.slow
def test_two_processes_on_the_cpu(tmp_path):
    run(
        *("bash", "tools/dist_train.sh", QUICKSTART, 2, "--work-dir", tmp_path, "--cfg-options"),
        *(o.replace("val_interval=100", "val_interval=2") for o in TINY),
    )
    state = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert state["meta"]["iter"] == 2
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "Distributed training: True" in log
    assert "GPU number: 2" in log
    run(
        *("bash", "tools/dist_test.sh", QUICKSTART, tmp_path / "iter_2.pth", 2, "--work-dir"),
        *(tmp_path / "test", "--cfg-options", *FEW_IMAGES, *ONE_PROCESS),
    )


# mmdet's own pipelines.
SMALL_IMAGES = [
    "train_dataloader.dataset.pipeline.2.scale=(320,192)",
    "val_dataloader.dataset.pipeline.1.scale=(320,192)",
]
ONE_EPOCH = ["train_cfg.max_epochs=1"]
TWO_ITERATIONS = ["train_cfg.max_iters=2", "train_cfg.val_interval=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "options"),
    [
        # tests/configs has them all; here are their kinds of schedule and data.
        ("mask_rcnn_dcls_convnext_t", ONE_EPOCH),
        pytest.param(
            *("mask_rcnn_drconv_fpn_r50", [*TWO_ITERATIONS, *SMALL_IMAGES]), marks=pytest.mark.long
        ),
        ("faster_rcnn_dk_local_mobilenetv2", [*ONE_EPOCH, *SMALL_IMAGES]),
        ("ssd_dke_two_branch", [*ONE_EPOCH, *SMALL_IMAGES]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_detectors_train_and_test_on_coco(detector, options, tiny_coco, tmp_path):
    run(
        *("tools/train.py", config_path(detector), "--data-root", tiny_coco),
        *("--work-dir", tmp_path, "--cfg-options", "train_dataloader.dataset.indices=2"),
        *("default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=1"),
        *(*FEW_IMAGES, *ONE_PROCESS, *options),
    )
    lines = scalars(tmp_path)
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines if "loss" in line)
    assert list(tmp_path.glob("*_[12].pth"))


@pytest.mark.slow
def test_a_config_in_pure_python(tiny_coco, tmp_path):
    config = "tests/tools/pure_python.py"
    arguments = "--data-root", tiny_coco, "--work-dir", tmp_path
    run("tools/train.py", config, *arguments, "--amp")
    run("tools/fold.py", config, tmp_path / "epoch_1.pth", tmp_path / "folded")
    folded = tmp_path / "folded/pure_python"
    drawn = "--show-dir", tmp_path / "drawn", "--out", tmp_path / "out.pkl"
    run("tools/test.py", f"{folded}.py", f"{folded}.pth", *arguments, *drawn)
    assert len(list((tmp_path / "drawn").glob("*"))) == 2
    with (tmp_path / "out.pkl").open("rb") as file:
        assert len(pickle.load(file)) == 2


@pytest.mark.slow
def test_a_segmentor_trains_and_tests_on_ade20k(tiny_ade, tmp_path):
    run(
        *("tools/train.py", "configs/dcls/upernet_dcls_convnext_t.py", "--data-root", tiny_ade),
        *("--work-dir", tmp_path, "--cfg-options", "train_cfg.max_iters=2"),
        *("train_cfg.val_interval=2", "default_hooks.logger.interval=1"),
        *("default_hooks.checkpoint.interval=2", "train_dataloader.batch_size=2"),
        # Smaller crops than the recipe's, and images as they are.
        "train_dataloader.dataset.pipeline.3.crop_size=(192,192)",
        *("model.data_preprocessor.size=(192,192)", "model.test_cfg.mode=whole"),
        *("val_dataloader.dataset.pipeline.1.scale=(256,192)", *FEW_IMAGES, *ONE_PROCESS),
    )
    trained = scalars(tmp_path)
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in trained if "loss" in line)
    assert 0 <= trained[-1]["mIoU"] <= 100


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["tools/train.py", "configs/mask_rcnn_dcls_convnext_t.py", "--data-root", "nowhere"],
            "error: no data for train_dataloader: looked for "
            "nowhere/annotations/instances_train2017.json under data_root nowhere/; "
            "name the folder that holds your data with --data-root DIR\n",
        ),
        (["tools/train.py", "configs/none.py"], "error: config configs/none.py does not exist\n"),
        (["tools/test.py", QUICKSTART, "none.pth"], "error: checkpoint none.pth does not exist\n"),
    ],
    ids=["data", "config", "checkpoint"],
)
def test_what_is_missing_is_one_sentence(command, message):
    assert run(*command, expect=1).endswith(message)


def test_an_active_environment_without_the_test_tools_is_told_what_it_lacks():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = 'NEED="pytest nosuchtool" source tools/setup_env.sh'
    said = run("bash", "-c", command, expect=1, VIRTUAL_ENV="active", PATH=path)
    assert "has no nosuchtool." in said
    assert "pip install" in said


def test_scripts_say_how_they_are_used():
    for script in ("dist_train", "dist_test", "slurm_train", "slurm_test"):
        assert "usage: " in run("bash", f"tools/{script}.sh", expect=2)
