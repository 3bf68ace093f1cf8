"""The compiled operations against their definitions, as operators, and when they are absent."""

import os
import shutil
import subprocess
import sys

from mmlearnconv.ops import has_extension
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
