"""Without optional packages the package still imports, and names what is missing."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run(absent, code):
    block = "import sys; " + "; ".join(f"sys.modules[{name!r}] = None" for name in absent)
    return subprocess.run(
        [sys.executable, "-c", f"{block}\n{code}"], cwd=ROOT, capture_output=True, text=True
    )


def test_layers_need_neither_mmdet_nor_mmseg_nor_mmcv_s_operations():
    code = """
import mmlearnconv, torch
from mmlearnconv.analysis import count_complexity
from mmlearnconv.catalog import operator_names
from mmcv.cnn import build_conv_layer
for name in operator_names(takes_over=False):
    layer = build_conv_layer(dict(type=name), 3, 8, 3)
    layer(torch.randn(1, 3, 9, 9))
    count_complexity(layer, (9, 9))
print("mmdet" in sys.modules and sys.modules["mmdet"])
"""
    result = run(["mmdet", "mmseg", "mmcv.ops"], code)
    assert result.stdout.endswith("None\n"), result.stderr


OPENMMLAB = ["mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"]


def test_layers_swaps_and_analysis_need_torch_alone():
    code = """
import torch
from torch import nn
from mmlearnconv.analysis import count_complexity
from mmlearnconv.catalog import operator_names
from mmlearnconv.surgery import fold_convs, swap_convs
for name in operator_names():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(1, 3, 9, 9)
    expected = model(x)
    swap_convs(model, [dict(pattern="*", conv=dict(type=name))])
    torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)
    count_complexity(model, (9, 9))
    if all(m.is_static for m in model if hasattr(m, "is_static")):
        fold_convs(model)
print("swapped and counted")
"""
    result = run([*OPENMMLAB, "cv2", "matplotlib", "scipy", "sklearn"], code)
    assert result.stdout == "swapped and counted\n", result.stderr


def test_importing_the_package_draws_nothing():
    """matplotlib and scikit-learn take seconds to load."""
    code = """
import sys
for name in ("mmengine", "mmcv.cnn", "mmdet.models", "mmseg.models"):
    __import__(name)
before = {*sys.modules}
import mmlearnconv
loaded = {name.partition(".")[0] for name in {*sys.modules} - before}
print(loaded & {"matplotlib", "sklearn"})
"""
    result = run([], code)
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    ("absent", "call", "extra"),
    [
        ("mmdet", "mmlearnconv.datasets.ShapesDataset()", "mmlearnconv[det]"),
        ("mmseg", "mmlearnconv.datasets.ShapesSegDataset()", "mmlearnconv[seg]"),
        ("mmdet", "mmlearnconv.models.LearnableFPN()", "mmlearnconv[det]"),
        ("mmdet", "mmlearnconv.models.TwoBranchHead()", "mmlearnconv[det]"),
    ],
)
def test_what_is_absent_is_named(absent, call, extra):
    result = run([absent], f"import mmlearnconv\n{call}")
    assert result.returncode == 1
    assert f"needs {absent}" in result.stderr
    assert extra in result.stderr
