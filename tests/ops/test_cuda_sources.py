"""The CUDA sources without a GPU: they compile, and their arithmetic is the definitions'."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.ops.op_testing import built

FOLDER = ROOT / "mmlearnconv/ops/csrc"
TORCH = Path(torch.__file__).parent
INCLUDES = [
    f"-I{path}"
    for path in (
        ROOT,
        TORCH / "include",
        TORCH / "include/torch/csrc/api/include",
        sysconfig.get_paths()["include"],
    )
]
# PyTorch 2.6 was built with the C++ library's old layout.
INCLUDES.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
# The CPU's weight gradient alone refuses half precision.
NOT_THE_CPU_S = "not of_the_weight_gradient_are_named"
# Of the sources' stems, depthwise_taps among those of depthwise.
TESTS = sorted(
    test
    for source in FOLDER.glob("cuda/*.cu")
    for test in (ROOT / "tests/ops").glob(f"test_{source.stem}*.py")
)


def run(command, **environment):
    result = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(FOLDER.glob("cuda/*.cu")), ids=lambda p: p.name)
def test_they_compile(source, tmp_path):
    """For sm_80 and sm_90, with a PyTorch that may be built without CUDA."""
    if shutil.which("nvcc") is None:
        assert os.environ.get("CI") != "true", "nvcc is missing"
        pytest.skip("there is no nvcc")
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]
    flags = ["-std=c++20", "--expt-relaxed-constexpr", "--threads", "2", "-Xcompiler", "-fPIC"]
    # PyTorch built without CUDA lacks the header with CUDA's configuration.
    flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    run(["nvcc", *flags, *targets, *INCLUDES, "-c", source, "-o", tmp_path / "object.o"])


@built
def test_their_arithmetic_is_the_definitions(tmp_path):
    """All tests of operations, with the CUDA kernels run on the CPU, one index after another."""
    library = tmp_path / "portable.so"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wno-psabi"]
    links = [f"-L{TORCH}/lib", "-lc10", "-ltorch_cpu"]
    run(["g++", *flags, *INCLUDES, ROOT / "tests/ops/portable.cpp", "-o", library, *links])
    (tmp_path / "portable_kernels.py").write_text(
        f"import torch, mmlearnconv.ops\ntorch.ops.load_library({str(library)!r})\n"
    )
    plugin = ["-p", "portable_kernels", "-p", "no:cacheprovider"]
    said = run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", NOT_THE_CPU_S, *plugin, *TESTS],
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert " passed" in said
    assert "skipped" not in said
