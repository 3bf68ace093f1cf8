"""Swapping and folding by the command lines: what is loaded, refused and written."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlearnconv.catalog import operator_names
from tests.conftest import ROOT
from tests.tools.test_command_lines import (
    ONE_PROCESS,
    QUICKSTART,
    another_operator,
    run,
    scalars,
)

pytestmark = pytest.mark.slow

SWAPPED_SEGMENTOR = """
_base_ = {base!r}
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv", target="EncoderDecoder", pretrained=None,
    swaps=[dict(pattern="*", kernel_size=3, conv=dict(type="DK"))])
"""
INFER = """
import sys
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
import mmlearnconv
config, weights, image, scope = sys.argv[1:]
init_default_scope(scope)
model = MODELS.build(Config.fromfile(config).model)
torch.save(dict(meta={}, state_dict=model.state_dict()), weights)
if scope == "mmdet":
    from mmdet.apis import DetInferencer
    result = DetInferencer(model=config, weights=weights, device="cpu")(image)
    assert result["predictions"][0].keys() >= {"bboxes", "scores", "labels"}
else:
    from mmseg.apis import MMSegInferencer
    names = dict(classes=[str(i) for i in range(19)], palette=[[i, i, i] for i in range(19)])
    result = MMSegInferencer(model=config, weights=weights, device="cpu", **names)(image)
    assert result["predictions"].ndim == 2
"""


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_inferencers_take_a_swapped_config(scope, tiny_coco, tmp_path):
    from mmengine.utils import get_installed_path

    config = ROOT / "configs/dcls/mask_rcnn_dcls_r50.py"
    if scope == "mmseg":
        config = tmp_path / "swapped.py"
        name = "/.mim/configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"
        config.write_text(SWAPPED_SEGMENTOR.format(base=get_installed_path("mmseg") + name))
    image = min((tiny_coco / "val2017").iterdir())
    output = run(sys.executable, "-c", INFER, config, tmp_path / "weights.pth", image, scope)
    assert "convolutions swapped" in output


def test_a_killed_fold_leaves_no_half_written_file(tmp_path):
    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(ROOT / QUICKSTART).model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / "weights.pth")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "tools/fold.py", QUICKSTART, tmp_path / "weights.pth", out],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out.is_dir() and any(out.iterdir())):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(out.iterdir())
    for path in out.iterdir():
        if path.suffix == ".pth" and not path.name.startswith("."):
            torch.load(path)
        if path.suffix == ".py" and not path.name.startswith("."):
            Config.fromfile(path)


def test_fold_refuses_dynamic_layers_by_name(tmp_path):
    init_default_scope("mmdet")
    cfg = Config.fromfile(ROOT / QUICKSTART)
    cfg.model.backbone.conv_cfg = dict(type="DRConv")
    model = MODELS.build(cfg.model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / "weights.pth")
    output = run(
        *("tools/fold.py", QUICKSTART, tmp_path / "weights.pth", tmp_path / "out"),
        *("--cfg-options", *another_operator("DRConv")),
        expect=1,
    )
    assert "backbone.layer1.0.conv1: DRConv2d: the kernel depends on the input" in output
    assert not (tmp_path / "out").exists()


PLAIN_QUICKSTART = ["model.backbone.conv_cfg=None"]


@pytest.fixture(scope="module")
def plain_quickstart(tmp_path_factory):
    """A plain detector that learned something, and its average precisions."""
    folder = tmp_path_factory.mktemp("plain")
    run(
        *("tools/train.py", QUICKSTART, "--work-dir", folder, "--cfg-options", *PLAIN_QUICKSTART),
        *("train_cfg.max_iters=150", "train_cfg.val_interval=150", "param_scheduler.1.end=150"),
        *("default_hooks.checkpoint.interval=150", *ONE_PROCESS),
    )
    return folder / "iter_150.pth", scalars(folder)[-1]


@pytest.mark.long
@pytest.mark.xdist_group("plain_quickstart")
@pytest.mark.parametrize("operator", operator_names(baselines=False))
def test_a_swap_keeps_the_average_precision(plain_quickstart, operator, tmp_path):
    checkpoint, expected = plain_quickstart
    assert expected["coco/segm_mAP_50"] > 0.05
    config = tmp_path / "swapped.py"
    config.write_text(
        f"_base_ = {str(ROOT / QUICKSTART)!r}\n"
        "model = dict(type='SwapConv', target='MaskRCNN', backbone=dict(conv_cfg=None),\n"
        f"    swaps=[dict(pattern='*', kernel_size=3, conv=dict(type={operator!r}))])\n"
    )
    run(
        *("tools/test.py", config, checkpoint, "--work-dir", tmp_path),
        *("--cfg-options", *ONE_PROCESS),
    )
    (report,) = tmp_path.glob("*/*.json")
    tested = json.loads(report.read_text())
    for key in ("coco/bbox_mAP", "coco/segm_mAP", "coco/segm_mAP_50"):
        # Three digits are printed: 0.001 is one unit in the last.
        assert abs(tested[key] - expected[key]) < 0.0015


SOFT_TEACHER = """
_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"
custom_imports = dict(imports=["mmlearnconv"])
default_scope = "mmdet"
detector = _base_.model
detector.backbone = dict(
    type="ResNet", depth=18, base_channels=8, conv_cfg=dict(type="CoC"), norm_cfg=dict(type="BN"))
detector.neck = dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=256, num_outs=5)
detector.test_cfg.rpn.update(nms_pre=20, max_per_img=20)
model = dict(
    _delete_=True, type="SoftTeacher", detector=detector, semi_test_cfg=dict(predict_on="teacher"),
    data_preprocessor=dict(
        type="MultiBranchDataPreprocessor", data_preprocessor=detector.data_preprocessor),
    semi_train_cfg=dict(freeze_teacher=True, pseudo_label_initial_score_thr=0.5))
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="Resize", scale=(96, 64), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor"))]
"""


def test_a_teacher_and_its_student_are_folded(tmp_path, run_tool):
    """Of the two, the teacher runs, whose parts are compared."""
    config = tmp_path / "soft.py"
    config.write_text(SOFT_TEACHER)
    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / "weights.pth")
    said = run_tool("fold", config, tmp_path / "weights.pth", tmp_path / "out")
    assert "folded 34 convolutions" in said, said
    assert "written" in said, said
    compared = {name for name, _ in runpy.run_path(str(ROOT / "tools/fold.py"))["parts"](model)}
    for part in ("backbone", "neck", "rpn_head", "roi_head.bbox_head"):
        assert {f"student.{part}", f"teacher.{part}"} <= compared
