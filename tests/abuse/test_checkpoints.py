"""Files that are no checkpoint, wherever one is read: one sentence, and nothing is written."""

import io
import os
import re
import runpy
import sys

import pytest
import torch

from tests.conftest import ROOT, mostly_long
from tests.engine.test_checkpoint import Payload
from tests.processes import run_file

pytestmark = pytest.mark.slow


def whole() -> bytes:
    file = io.BytesIO()
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), file)
    return file.getvalue()


def saved(value, path):
    torch.save(value, path)


def cut(share):
    def write(path, mark):
        content = whole()
        path.write_bytes(content[: int(share * len(content))])

    return write


def flipped(path, mark):
    content = bytearray(whole())
    for position in range(40, len(content), 97):
        content[position] ^= 255
    path.write_bytes(content)


def linked(path, mark):
    target = path.with_name("target.pth")
    saved(dict(state_dict={}, extra=Payload(mark)), target)
    path.symlink_to(target)


DAMAGED = r"error: checkpoint .*file\.pth is damaged or not a PyTorch checkpoint .*; copy or"
REFUSED = r"error: checkpoint .*file\.pth is refused: loading it would run .*--trust-checkpoint"
FILES = {
    "missing": (lambda path, mark: None, r"error: checkpoint .*file\.pth does not exist"),
    "folder": (lambda path, mark: path.mkdir(), r"error: checkpoint .*file\.pth is a folder"),
    "empty": (lambda path, mark: path.write_bytes(b""), DAMAGED),
    "html": (
        lambda path, mark: path.write_text("<html>404 Not Found</html>"),
        r"is damaged|refused",
    ),
    "cut-in-the-middle": (cut(0.5), DAMAGED),
    "cut-near-the-end": (cut(0.98), DAMAGED),
    "bits-flipped": (flipped, r"is damaged|is refused"),
    "tensor": (lambda path, mark: saved(torch.ones(3), path), "holds a Tensor, not a dictionary"),
    "another-model": (
        lambda path, mark: path.write_bytes(whole()),
        r"error: .*(does not fit the|no tensor of the|none of its|without the state|no ConvNeXt)",
    ),
    "code": (
        lambda path, mark: saved(dict(state_dict={}, extra=Payload(mark)), path),
        REFUSED,
    ),
    "link-to-code": (linked, REFUSED),
}
PLACES = {
    "test": lambda c, f, image: ("test", c, f, "--work-dir", "out"),
    "load_from": lambda c, f, image: (
        *("train", c, "--work-dir", "out", "--cfg-options", f"load_from={f}"),
    ),
    "resume": lambda c, f, image: ("train", c, "--work-dir", "out", "--resume", f),
    "init_cfg": lambda c, f, image: (
        *("train", c, "--work-dir", "out", "--cfg-options"),
        *("model.backbone.init_cfg.type=Pretrained", f"model.backbone.init_cfg.checkpoint={f}"),
    ),
    "fold": lambda c, f, image: ("fold", c, f, "out"),
    "convert": lambda c, f, image: ("convert_checkpoint", f, "out/converted.pth"),
    "visualize": lambda c, f, image: ("visualize", c, f, "--image", image, "--out", "out"),
    "receptive_field": lambda c, f, image: (
        *("receptive_field", c, "--checkpoint", f, "--num-images", 1, "--size", 64, "--out", "out"),
    ),
    "demo": lambda c, f, image: ("demo", image, c, f, "--out", "out"),
}


@pytest.mark.parametrize(
    ("place", "kind"),
    mostly_long(
        [(place, kind) for place in PLACES for kind in FILES],
        *((place, "code") for place in PLACES),
        ("test", "another-model"),
        ("load_from", "another-model"),
        ("fold", "another-model"),
    ),
)
def test_a_file_that_is_no_checkpoint(place, kind, config, shapes, stops, tmp_path):
    path, mark = tmp_path / "file.pth", tmp_path / "ran"
    write, message = FILES[kind]
    write(path, mark)
    image = min((shapes / "val").iterdir())
    said = stops(*PLACES[place](config, path, image))
    assert re.search(message, said), said
    assert not mark.exists()
    left = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert not {name for name in left if name.endswith((".pth", ".html", ".png", ".jpg"))}, left


@pytest.mark.parametrize("kind", ["code", "link-to-code"])
def test_the_last_checkpoint_of_a_folder_that_carries_code(kind, config, stops, tmp_path):
    path, mark = tmp_path / "out" / "file.pth", tmp_path / "ran"
    path.parent.mkdir()
    FILES[kind][0](path, mark)
    (path.parent / "last_checkpoint").write_text(str(path))
    assert "is refused" in stops("train", config, "--work-dir", "out", "--resume")
    assert not mark.exists()


def test_the_average_of_weights_that_carries_code(config, stops, tmp_path):
    path, mark = tmp_path / "file.pth", tmp_path / "ran"
    saved(dict(state_dict={}, ema_state_dict=dict(steps=Payload(mark))), path)
    averaged = tmp_path / "averaged.py"
    averaged.write_text(f"_base_ = {str(config)!r}\ncustom_hooks = [dict(type='EMAHook')]\n")
    said = stops("train", averaged, "--work-dir", "out", "--resume", path)
    assert "is refused" in said
    assert not mark.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("get_flops", "--shape", 64, 64),
        ("compare", "--size", 64, 64, "--rounds", 1, "--conv", "DRConv"),
    ],
    ids=["get_flops", "compare"],
)
def test_tools_that_need_no_weights_read_none(arguments, tmp_path):
    path, mark = tmp_path / "file.pth", tmp_path / "ran"
    saved(dict(state_dict={}, extra=Payload(mark)), path)
    config = tmp_path / "distilled.py"
    # Its model loads the teacher's weights while it is built.
    config.write_text(
        "_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'\n"
        "model = dict(type='KnowledgeDistillationSingleStageDetector',\n"
        "    backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]),\n"
        "    bbox_head=dict(\n"
        "        type='LDHead', loss_ld=dict(type='KnowledgeDistillationKLDivLoss')),\n"
        f"    teacher_config=dict(model=_base_.model), teacher_ckpt={str(path)!r})\n"
    )
    tool, *options = map(str, arguments)
    status, said = run_file(
        [str(ROOT / f"tools/{tool}.py"), str(config), *options],
        tmp_path,
        os.environ | dict(PYTHONPATH=str(ROOT)),
    )
    assert status == 0, said[-3000:]
    assert not mark.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optim_wrapper.constructor=DefaultOptimWrapperConstructor"], "at another place"),
        pytest.param(
            ["model.backbone.conv_cfg.type=DKE"],
            r"positions was \(.*\) and is|is new",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["model.backbone.conv_cfg.kernel_count=3"],
            r"weight was \(.*\) and is \(.*3\)",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_run_that_was_changed_does_not_resume(
    options, message, config, stops, monkeypatch, tmp_path
):
    """What is saved stays, and nothing of it is loaded."""
    own = ["optim_wrapper.constructor=LearnableConvOptimWrapperConstructor"]
    arguments = ["train", config, "--work-dir", "out", "--cfg-options", "train_cfg.max_iters=1"]
    monkeypatch.chdir(tmp_path)
    tool = str(ROOT / "tools" / "train.py")
    monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments[1:]), *own])
    runpy.run_path(tool, run_name="__main__")
    saved = (tmp_path / "out" / "iter_1.pth").read_bytes()
    said = stops(*arguments, *own, *options, "--resume")
    assert re.search(f"--resume: the checkpoint is of another .*{message}", said), said
    assert (tmp_path / "out" / "iter_1.pth").read_bytes() == saved
