"""Command lines in this process, on a network and data that are quick."""

import json
import pickle
import runpy
import sys
from pathlib import Path
from zipfile import is_zipfile

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT

SMALL = """
_base_ = {base!r}
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(
    checkpoint=dict(interval=1), visualization=dict(draw=False), logger=dict(interval=1)
)
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(data_root={root!r}), **_loader)
val_dataloader = dict(dataset=dict(data_root={root!r}), **_loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + "/annotations/val.json")
test_evaluator = val_evaluator
"""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Six images of Shapes."""
    from mmlearnconv.datasets import make_shapes

    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", dict(train=4, val=2))


@pytest.fixture(scope="session")
def config(tmp_path_factory, shapes) -> Path:
    """The quickstart's detector at a quarter of its width."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    base = ROOT / "configs" / "quickstart_mask_rcnn_dcls.py"
    path.write_text(SMALL.format(base=str(base), root=str(shapes)))
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory, config) -> Path:
    """A checkpoint of it."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(config).model)
    path = tmp_path_factory.mktemp("weights") / "iter_1.pth"
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


def files_below(folder: Path) -> set[tuple[str, int]]:
    """Files with the times at which they were written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {(str(path), path.stat().st_mtime_ns) for path in files}


def assert_whole(path: Path) -> None:
    """Of files that a tool may leave when it stops: none is cut, none has another name."""
    if path.name == "last_checkpoint":
        assert Path(path.read_text()).is_file()
    elif path.suffix in (".pth", ".pt"):
        assert is_zipfile(path), path
        torch.load(path, weights_only=False)
    elif path.suffix == ".pkl":
        pickle.loads(path.read_bytes())
    elif path.suffix in (".png", ".jpg"):
        Image.open(path).load()
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), path
    elif path.suffix == ".py":
        compile(path.read_text(), path, "exec")
    elif path.suffix == ".json" and path.parent.name != "vis_data":
        json.loads(path.read_text())
    else:
        # Logs grow while a tool runs.
        assert path.suffix in (".log", ".json") or path.name == ".lock", path


@pytest.fixture
def stops(monkeypatch, capsys, tmp_path):
    """Runs a command line that must stop with one sentence, which it returns.

    Anything but ``SystemExit`` fails the test, as does an exit without an error, or a file of it
    that is not whole.
    """
    monkeypatch.chdir(tmp_path)

    def run(tool, *arguments):
        before = files_below(tmp_path)
        path = str(ROOT / "tools" / f"{tool}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(path, run_name="__main__")
        said = capsys.readouterr().err if isinstance(stop.value.code, int) else str(stop.value)
        assert stop.value.code not in (0, None)
        assert "Traceback" not in said
        for left in files_below(tmp_path) - before:
            assert_whole(Path(left[0]))
        return said

    return run
