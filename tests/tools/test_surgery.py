"""Swapping and folding by the command lines: what is loaded, refused and written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlearnconv.catalog import names
from tests.conftest import ROOT
from tests.engine.test_checkpoint import Payload
from tests.tools.test_command_lines import (
    ONE_PROCESS,
    QUICKSTART,
    TINY,
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


@pytest.fixture
def harmful(tmp_path):
    path, mark = tmp_path / "harmful.pth", tmp_path / "ran"
    torch.save(dict(state_dict={}, extra=Payload(mark)), path)
    return path, mark


@pytest.mark.parametrize(
    "command",
    [
        ["tools/train.py", QUICKSTART, "--cfg-options", *TINY, "load_from={}"],
        ["tools/train.py", QUICKSTART, "--resume", "{}", "--cfg-options", *TINY],
        [
            *("tools/train.py", "configs/coc/retinanet_coc_r50.py", "--data-root", "coco"),
            *("--cfg-options", *ONE_PROCESS, "model.backbone.init_cfg.type=Pretrained"),
            "model.backbone.init_cfg.checkpoint={}",
        ],
        ["tools/test.py", QUICKSTART, "{}"],
        ["tools/fold.py", QUICKSTART, "{}", "out"],
        ["tools/convert_checkpoint.py", "{}", "out"],
    ],
    ids=["load_from", "resume", "init_cfg", "test", "fold", "convert"],
)
def test_a_checkpoint_that_would_run_code_is_refused(command, harmful, tiny_coco, tmp_path):
    path, mark = harmful
    place = {"out": str(tmp_path / "out"), "coco": str(tiny_coco)}
    command = [place.get(part, part.replace("{}", str(path))) for part in command]
    if command[0] in ("tools/train.py", "tools/test.py"):
        command[2:2] = ["--work-dir", str(tmp_path / "work")]
    output = run(*command, expect=1)
    assert f"error: checkpoint {path} is refused: loading it would run" in output
    assert "--trust-checkpoint" in output
    assert "Traceback" not in output
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), path)
    path.write_bytes(path.read_bytes()[:2000])
    for command in (
        ["tools/convert_checkpoint.py", path, tmp_path / "out.pth"],
        ["tools/fold.py", QUICKSTART, path, tmp_path / "out"],
        ["tools/test.py", QUICKSTART, path, "--work-dir", tmp_path / "work"],
    ):
        output = run(*command, expect=1)
        assert f"error: checkpoint {path} is damaged or not a PyTorch checkpoint" in output
        assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


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


@pytest.mark.xdist_group("plain_quickstart")
@pytest.mark.parametrize("operator", names(baselines=False))
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
