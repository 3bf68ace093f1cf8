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
from mmlearnconv.catalog import names
from mmcv.cnn import build_conv_layer
for name in names(takes_over=False):
    layer = build_conv_layer(dict(type=name), 3, 8, 3)
    layer(torch.randn(1, 3, 9, 9))
    count_complexity(layer, (9, 9))
print("mmdet" in sys.modules and sys.modules["mmdet"])
"""
    result = run(["mmdet", "mmseg", "mmcv.ops"], code)
    assert result.stdout.endswith("None\n"), result.stderr


def test_operations_need_torch_alone():
    code = """
import torch
from mmlearnconv.ops import dcls_kernel
print(dcls_kernel(torch.ones(1, 1, 1), torch.zeros(2, 1, 1, 1), (3, 3)).sum().item())
"""
    result = run(["mmengine", "mmcv", "mmdet", "mmseg", "cv2"], code)
    assert result.stdout == "1.0\n", result.stderr


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
