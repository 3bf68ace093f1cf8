"""The comparison of operators in a model, on a small one."""

import json
import os

import pytest
from mmengine.config import Config

from mmlearnconv.catalog import operator_names
from tests import libraries
from tests.conftest import ROOT, config_path
from tests.processes import run_file

CONFIG = "configs/quickstart_mask_rcnn_dcls.py"
SMALL = (
    *("--size", 64, 64, "--cfg-options"),
    *("model.backbone.base_channels=8", "model.neck.in_channels=[8,16,32,64]"),
)


def table_of(said):
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    head, _, *body = ([cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows)
    return {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in body}


def test_every_operator_by_conv_cfg(tmp_path, run_tool):
    file = tmp_path / "figures.json"
    said = run_tool("compare", CONFIG, "--json", file, *SMALL)
    table = table_of(said)
    assert list(table) == ["plain", *operator_names(baselines=False)]
    found = {row["operator"]: row for row in json.loads(file.read_text())["rows"]}
    # ResNet-18: a stem, 16 convolutions of 3x3 and three of 1x1, which some types leave plain.
    assert found["plain"]["reached"] == 0
    assert found["DCLS"]["reached"] == found["CoC"]["reached"] == 17
    assert found["DK"]["reached"] == found["DRConv"]["reached"] == 20
    # By conv_cfg, DCLS has fewer elements than cells; DK and CoC are exact, DKE nearly so.
    assert found["DCLS"]["error"] > 0.1
    assert table["DK"]["plain weights"] == table["CoC"]["plain weights"] == "exact"
    assert 1e-6 < found["DKE"]["error"] < 1e-3
    assert found["DK"]["parameters"] > found["plain"]["parameters"]
    assert all(row["train"] > 0 and row["inference"] > 0 for row in found.values())
    assert table["plain"]["training step"].endswith("(1.00x)")
    assert (table["DCLS"]["folds"], table["DK"]["folds"]) == ("yes", "no")


def test_a_swap_is_exact_and_reaches_what_the_pattern_names(tmp_path, run_tool):
    file = tmp_path / "figures.json"
    where = "backbone.layer[34].*"
    conv = "--conv", "DCLS", "Involution", "ConvOrth", "--where", where, "--json", file
    # What is learnable in the config, by any name, is plain before it is compared.
    learnable = (
        *("model.backbone.conv_cfg._delete_=True", "model.backbone.conv_cfg.type=DRConv2d"),
        "model.roi_head.mask_head.conv_cfg.type=CoC",
    )
    said = run_tool("compare", CONFIG, *conv, *SMALL, *learnable)
    found = json.loads(file.read_text())
    assert found["rows"][0]["reached"] == 0
    assert [row["operator"] for row in found["rows"]] == ["plain", "DCLS"]
    # Two stages with two blocks of two, but no 1x1 shortcut.
    assert found["rows"][1]["reached"] == 8
    assert table_of(said)["DCLS"]["plain weights"] == "exact"
    assert "which involution shares" in found["failures"]["Involution"]
    assert "ConvOrth: " in said


@pytest.mark.slow
def test_a_segmentor(run_tool):
    said = run_tool(
        "compare", "configs/_base_/upernet_shapes.py", "--size", 64, 64, "--conv", "CoC"
    )
    assert table_of(said)["CoC"]["plain weights"] == "exact"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "nowhere.py"),
        ([CONFIG, "--size", 8, 8], "--size 8 8: must be 32 or more"),
        ([CONFIG, "--rounds", 0], "--rounds 0: must be 1 or more"),
        ([CONFIG, "--where", "neck.none.*"], "--where neck.none.*: matches none of backbone.conv1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, run_tool):
    said = run_tool("compare", *arguments)
    assert said.startswith("error: ")
    assert message in said


@pytest.mark.slow
def test_pipelines_that_have_no_name(tmp_path, run_tool):
    """As in a config that mmengine wrote, they may stand in the loaders alone."""
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.pop("train_pipeline")
    cfg.pop("test_pipeline")
    cfg.dump(tmp_path / "inline.py")
    said = run_tool("compare", tmp_path / "inline.py", "--conv", "CoC", *SMALL)
    assert list(table_of(said)) == ["plain", "CoC"], said


TASKS = """
_base_ = {base!r}
model = dict(head=dict(
    _delete_=True, type="MultiTaskHead", task_heads=dict(
        kind=dict(type="LinearClsHead", num_classes=5, in_channels=256),
        colour=dict(type="LinearClsHead", num_classes=3, in_channels=256))))
"""


@pytest.mark.slow
def test_a_classifier_of_several_tasks(tmp_path):
    libraries.need()
    config = tmp_path / "tasks.py"
    config.write_text(TASKS.format(base=str(config_path("classifier_shapes"))))
    tool = ["tools/compare.py", str(config), "--conv", "CoC", "--size", "64", "64"]
    status, said = run_file(
        tool, ROOT, os.environ | dict(PYTHONPATH=str(ROOT)), with_libraries=True
    )
    assert status == 0, said[-3000:]
    assert list(table_of(said)) == ["plain", "CoC"]
