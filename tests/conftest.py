import functools
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, and for the processes that tests start.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# Real images lie beside the checkout, or where the variable says.
DATA = Path(os.environ.get("MMLEARNCONV_TEST_DATA", ROOT.parent / "shared" / "data"))
LONG = pytest.mark.long


def pytest_collection_modifyitems(items):
    """Slow tests first, so that quick ones fill the time in which the last of them runs."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _metafiles_once():
    """mmengine reads all metafiles of a toolbox, a third of a second, for each base of a config."""
    if importlib.util.find_spec("mmengine") is None:
        yield
        return
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "load", functools.cache(utils.load))
        yield


@pytest.fixture(autouse=True)
def _unguarded(monkeypatch):
    """What ``enforce_weights_only`` and ``check_pretrained`` do ends with the test."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    yield
    if "mmengine" in sys.modules:
        from mmengine.model import PretrainedInit
        from mmengine.registry import WEIGHT_INITIALIZERS
        from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

        CheckpointLoader.register_scheme("", loader=load_from_local, force=True)
        WEIGHT_INITIALIZERS.register_module("Pretrained", force=True, module=PretrainedInit)


def config_path(name: str) -> Path:
    """The file of a shipped config, wherever it lies below ``configs``."""
    (path,) = (ROOT / "configs").rglob(f"{name}.py")
    return path


def mostly_long(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of a test, or tuples of them, of which CI runs a few only."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else [v]), marks=[] if v in quick else LONG)
        for v in values
    ]


def _data(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent; MMLEARNCONV_TEST_DATA names its parent folder")
    return DATA / name


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    return _data("tiny_coco")


@pytest.fixture(scope="session")
def tiny_ade() -> Path:
    return _data("tiny_ade")
