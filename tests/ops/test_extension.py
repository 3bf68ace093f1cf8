"""The compiled operations against their definitions, as operators, and when they are absent."""

import os
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from mmlearnconv.ops import dispatch, extension, has_extension
from tests.conftest import ROOT
from tests.ops.op_testing import built


def test_they_are_built_where_all_is_tested():
    if os.environ.get("CI") == "true" and os.environ.get("MMLEARNCONV_WITHOUT_OPS") != "1":
        assert has_extension()


TRAIN = """
import torch
from mmlearnconv.layers import DCLSConv2d
from mmlearnconv.ops import has_extension
conv = DCLSConv2d(8, 8, 7, padding=3, groups=8)
conv(torch.randn(2, 8, 20, 20)).sum().backward()
conv(torch.randn(2, 8, 20, 20)).sum().backward()
assert conv.weight.grad.isfinite().all()
print(has_extension())
"""


def run_copy(folder, library=None, newer=False, **environment):
    """Train a layer with a copy of the package; what it prints to stderr.

    The copy has no library, one of this content, or ours with ``newer`` code.
    """
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "mmlearnconv", folder / "mmlearnconv", ignore=ignored)
    if library is not None:
        (folder / "mmlearnconv/ops/_ext.so").write_text(library)
    if newer:
        (built_here,) = (ROOT / "mmlearnconv/ops").glob("_ext*.so")
        shutil.copy(built_here, folder / "mmlearnconv/ops")
        code = folder / "mmlearnconv/ops/dcls.py"
        code.write_text(code.read_text().replace('"dcls_kernel_backward",', '"of_tomorrow",', 1))
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


STAND_IN = """
import types, sys
version = types.SimpleNamespace(cuda={cuda!r})
cuda = types.SimpleNamespace(is_available=lambda: {gpu})
class Extension:
    def __init__(self, name, sources, **options):
        from setuptools import Extension
        kind = "CUDA" if any(source.endswith(".cu") for source in sources) else "CPU"
        import os
        print("builds for", kind, os.environ.get("TORCH_CUDA_ARCH_LIST"))
        sys.exit()
cpp_extension = types.ModuleType("torch.utils.cpp_extension")
cpp_extension.CUDA_HOME = {home!r}
cpp_extension.CUDAExtension = cpp_extension.CppExtension = Extension
utils = types.ModuleType("torch.utils")
utils.cpp_extension = cpp_extension
sys.modules.update({{"torch.utils": utils, "torch.utils.cpp_extension": cpp_extension}})
"""


@pytest.mark.parametrize(
    ("gpu", "forced", "cuda", "nvcc", "message"),
    [
        (False, False, "13.0", "13.0", "builds for CPU None"),
        (True, False, "13.0", "13.1", "builds for CUDA None"),
        (False, True, "13.0", "13.0", "builds for CUDA 8.0;8.6;8.9;9.0+PTX"),
        (True, False, "13.0", None, "No CUDA kernels are built, since there is no nvcc"),
        (True, False, "13.0", "12.8", "of CUDA 12.8, PyTorch of CUDA 13.0: set CUDA_HOME"),
        (False, True, "13.0", None, "FORCE_CUDA=1, but there is no nvcc"),
        (False, True, "13.0", "12.8", "FORCE_CUDA=1, but"),
        (False, True, None, "13.0", "FORCE_CUDA=1, but this PyTorch was built without CUDA"),
    ],
)
def test_what_is_built_where(tmp_path, gpu, forced, cuda, nvcc, message):
    home = tmp_path / "cuda"
    if nvcc is not None:
        (home / "bin").mkdir(parents=True)
        program = home / "bin/nvcc"
        program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {nvcc}, V{nvcc}.1'\n")
        program.chmod(0o755)
    (tmp_path / "torch").mkdir()
    stand_in = STAND_IN.format(cuda=cuda, gpu=gpu, home=str(home))
    (tmp_path / "torch/__init__.py").write_text(stand_in)
    environment = os.environ | dict(PYTHONPATH=str(tmp_path), FORCE_CUDA=str(int(forced)))
    environment.pop("TORCH_CUDA_ARCH_LIST", None)
    environment.pop("MMLEARNCONV_WITHOUT_OPS", None)
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    said = result.stdout + result.stderr
    assert message in said, said
    assert (result.returncode == 0) != message.startswith("FORCE"), said
    if not message.startswith(("builds", "FORCE")):
        assert "builds for CPU" in said


@pytest.mark.parametrize("built_for", [{"CPU"}, {"CPU", "CUDA"}])
def test_a_build_without_cuda_says_so_on_a_gpu_once(monkeypatch, built_for):
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(extension, "_library", "_ext.so")
    monkeypatch.setattr(extension, "_kernels", {("depthwise_taps", key) for key in built_for})
    extension.warn_if_not_built_for_cuda.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [dispatch.use_compiled(on_gpu) for _ in range(2)] == ["CUDA" in built_for] * 2
    assert len(said) == ("CUDA" not in built_for)
    assert all("built without CUDA" in str(warning.message) for warning in said)
    extension.warn_if_not_built_for_cuda.cache_clear()
