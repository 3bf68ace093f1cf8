"""The compiled operations against their definitions, as operators, and when they are absent."""

import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmlearnconv.ops import is_compiled
from tests.conftest import ROOT
from tests.ops.sweep import built


def test_they_are_built_where_all_is_tested():
    if os.environ.get("CI") == "true" and os.environ.get("MMLEARNCONV_WITHOUT_OPS") != "1":
        assert is_compiled()


def weight_grad(*arguments):
    return torch.ops.mmlearnconv.depthwise_weight_grad(*arguments)


def cases(count):
    """Sizes that no vector divides, strides, dilations, empty batches, maps of a pixel."""
    rng = random.Random(1)
    for _ in range(count):
        size, stride, dilation, padding = (
            [rng.randint(low, high) for _ in range(2)]
            for low, high in ((1, 19), (1, 3), (1, 3), (0, 9))
        )
        least = [
            max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, size, padding, strict=True)
        ]
        shape = [n + rng.choice([0, rng.randint(0, 40)]) for n in least]
        batch, channels = rng.choice([0, 1, 2, 3]), rng.choice([1, 3, 8, 15, 16, 17, 40])
        yield (batch, channels, *shape), size, stride, padding, dilation


def definition(x, grad, size, stride, padding, dilation):
    """out[c, u, v] = sum over n, i, j of grad[n, c, i, j] x[n, c, i s + u d - p, j s + v d - p]."""
    columns = F.unfold(x, size, dilation, padding, stride)
    columns = columns.unflatten(1, (x.shape[1], -1))
    return torch.einsum("nckl,ncl->ck", columns, grad.flatten(2)).view(-1, 1, *size)


@built
@pytest.mark.parametrize("case", list(cases(80)), ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weight_gradient_equals_its_definition(case, memory_format):
    shape, size, stride, padding, dilation = case
    x = torch.randn(shape, dtype=torch.double).contiguous(memory_format=memory_format)
    weight = torch.zeros(shape[1], 1, *size, dtype=torch.double)
    geometry = (stride, padding, dilation)
    grad = torch.randn_like(F.conv2d(x, weight, None, *geometry, shape[1]))
    expected = definition(x, grad, size, *geometry) if shape[0] else weight
    found = weight_grad(x, grad, size, *geometry)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    single = weight_grad(x.float(), grad.float(), size, *geometry)
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4 * scale)
    assert torch.equal(single, weight_grad(x.float(), grad.float(), size, *geometry))


@built
def test_two_numbers_of_threads_give_equal_bits():
    x, grad = torch.randn(2, 40, 50, 30), torch.randn(2, 40, 50, 30)
    arguments = (x, grad, [17, 17], [1, 1], [8, 8], [1, 1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weight_grad(*arguments)
        torch.set_num_threads(2)
        assert torch.equal(one, weight_grad(*arguments))
    finally:
        torch.set_num_threads(threads)


@built
def test_it_is_an_operator_like_pytorch_s():
    x = torch.randn(2, 3, 8, 7, dtype=torch.double, requires_grad=True)
    grad = torch.randn(2, 3, 4, 7, dtype=torch.double, requires_grad=True)
    arguments = (x, grad, [3, 5], [2, 1], [1, 4], [1, 2])
    torch.library.opcheck(torch.ops.mmlearnconv.depthwise_weight_grad.default, arguments)
    assert gradcheck(lambda x, grad: weight_grad(x, grad, *arguments[2:]), (x, grad))


@built
@pytest.mark.parametrize(
    ("x", "grad", "message"),
    [
        (torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8), r"must be \(N, C, H, W\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8), r"must be \(N, C, H, W\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 9, 8), "is not what a kernel of"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8).double(), "input is Float and grad Do"),
        (torch.zeros(2, 3, 8, 8).half(), torch.zeros(2, 3, 8, 8).half(), "neither float32 nor"),
    ],
)
def test_wrong_arguments_are_named(x, grad, message):
    with pytest.raises(RuntimeError, match=message):
        weight_grad(x, grad, [3, 3], [1, 1], [1, 1], [1, 1])


TRAIN = """
import torch
from mmlearnconv.layers import DCLSConv2d
from mmlearnconv.ops import is_compiled
conv = DCLSConv2d(8, 8, 7, padding=3, groups=8)
conv(torch.randn(2, 8, 20, 20)).sum().backward()
conv(torch.randn(2, 8, 20, 20)).sum().backward()
assert conv.weight.grad.isfinite().all()
print(is_compiled())
"""


def run_copy(folder, library=None, newer=False, **environment):
    """Train a layer with a copy of the package that has this file for its library; what is said.

    Or ``newer`` code than our library's.
    """
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "mmlearnconv", folder / "mmlearnconv", ignore=ignored)
    if library is not None:
        (folder / "mmlearnconv/ops/_ext.so").write_text(library)
    if newer:
        (built_here,) = (ROOT / "mmlearnconv/ops").glob("_ext*.so")
        shutil.copy(built_here, folder / "mmlearnconv/ops")
        code = folder / "mmlearnconv/ops/extension.py"
        code.write_text(code.read_text().replace('"dcls_kernel",', '"of_tomorrow",', 1))
    result = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=folder,
        env=os.environ | dict(PYTHONPATH=str(folder)) | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("False")
    return result.stderr


def test_without_them_the_package_works_and_says_so_once(tmp_path):
    said = run_copy(tmp_path / "absent", MMLEARNCONV_WITHOUT_OPS="0")
    assert said.count("compiled operations are not built") == 1
    assert "pip install -e . --no-build-isolation" in said
    assert "compiled operations" not in run_copy(tmp_path / "off", MMLEARNCONV_WITHOUT_OPS="1")


@built
def test_the_build_for_this_python_is_loaded(tmp_path):
    """And no other, whatever the order of their names."""
    folder = tmp_path / "package"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mmlearnconv", folder / "mmlearnconv", ignore=ignored)
    other = folder / "mmlearnconv/ops/_ext.cpython-30-none.so"
    other.write_text("for another Python")
    environment = os.environ | dict(PYTHONPATH=str(folder), MMLEARNCONV_WITHOUT_OPS="0")
    command = [sys.executable, "-c", TRAIN]
    options = dict(cwd=folder, env=environment, capture_output=True, text=True)
    result = subprocess.run(command, **options)
    assert result.stdout.strip().endswith("True"), result.stderr
    for path in (folder / "mmlearnconv/ops").glob("_ext*.so"):
        if path != other:
            path.unlink()
    result = subprocess.run(command, **options)
    assert result.stdout.strip().endswith("False"), result.stderr
    assert "built for another Python (_ext.cpython-30-none.so)" in result.stderr


def test_an_unloadable_file_says_why(tmp_path):
    said = run_copy(tmp_path / "broken", "no library", MMLEARNCONV_WITHOUT_OPS="0")
    assert "compiled operations do not load" in said
    assert "_ext.so" in said


@built
def test_operations_older_than_the_code_are_left_alone(tmp_path):
    """As after an update without a build."""
    folder = tmp_path / "older"
    said = run_copy(folder, newer=True, MMLEARNCONV_WITHOUT_OPS="0")
    assert "are older than this code (no of_tomorrow)" in said
    assert "pip install -e . --no-build-isolation" in said
