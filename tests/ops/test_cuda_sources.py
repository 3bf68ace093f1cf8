"""The CUDA sources without a GPU: what they compile to, and what they compute on the emulator."""

import os
import shutil

import pytest

from tests.conftest import ROOT, mostly_long
from tests.cuda_emulator import ORDERS, SOURCES, build_emulated, pytest_emulated
from tests.cuda_emulator.machine_code import compile_kernels, nvdisasm
from tests.ops.op_testing import built

# Tests of the compiled operations. Left out: checks of how they are registered, and by differences,
# which are slow under the sanitizer and the same on the CPU; a dtype that only the CPU refuses.
FILES = [
    path
    for path in sorted((ROOT / "tests/ops").glob("test_*.py"))
    if path.stem
    not in ("test_cuda_sources", "test_gpu", "test_extension", "test_random", "test_coc")
]
COMPILED = (
    "not PyTorch and not like_pytorch_s and not gradcheck and not of_the_weight_gradient_are_named"
)

pytestmark = pytest.mark.slow


# Kernels, and the share of multiply-adds that their inner loop has at least: the rest is reading
# shared memory and counting.
MULTIPLY_ADDS = {
    "depthwise": {
        "void depthwise_forward_kernel<17, false>": 0.75,
        "void depthwise_weight_grad_kernel<17>": 0.6,
    },
}


def skip_without_compiler():
    if shutil.which("nvcc") is None or nvdisasm() is None:
        assert os.environ.get("CI") != "true", "nvcc or nvdisasm is missing"
        pytest.skip("there is no nvcc, or no nvdisasm: pip install nvidia-cuda-nvdisasm")


@pytest.mark.parametrize("architecture", mostly_long([80, 90], 90), ids="sm_{}".format)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_machine_code(source, architecture, tmp_path):
    """No spills, no local memory; inner loops that multiply and add, with 32-bit indices."""
    skip_without_compiler()
    kernels = compile_kernels(source, architecture, tmp_path)
    assert kernels
    for name, kernel in kernels.items():
        assert kernel.machine.instructions, name
        assert (kernel.stack, kernel.spills) == (0, 0), name
        assert kernel.in_64_bits() == [], name
    for beginning, least in MULTIPLY_ADDS.get(source.stem, {}).items():
        (kernel,) = [kernel for name, kernel in kernels.items() if name.startswith(beginning)]
        loop = max(kernel.loops(), key=lambda loop: loop["FFMA"])
        assert loop["FFMA"] >= least * loop.total(), (name, loop)


LOOPS = """
template <typename N>
__device__ void sum(long* out, const N* in, N n, int count) {
  long total = 0;
  for (int i = 0; i < count; ++i) total += static_cast<long>(in[i]) * n;
  *out = total;
}
__global__ void narrow(long* out, const int* in, int n, int count) { sum(out, in, n, count); }
__global__ void wide(long* out, const long* in, long n, int count) { sum(out, in, n, count); }
__global__ void divided(long* out, const long* in, long n, int count) {
  for (int i = 0; i < count; ++i) out[i] = in[i] / n;
}
"""


def test_planted_64_bit_arithmetic_is_found(tmp_path):
    skip_without_compiler()
    source = tmp_path / "loops.cu"
    source.write_text(LOOPS)
    kernels = compile_kernels(source, 90, tmp_path)
    found = {name.split("(")[0]: kernel.in_64_bits() for name, kernel in kernels.items()}
    assert found["narrow"] == []
    assert found["wide"][0].startswith("mul.lo.s64")
    assert found["divided"][0].startswith("div.s64")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    return build_emulated(tmp_path_factory.mktemp("emulated"))


@built
@pytest.mark.long
@pytest.mark.xdist_group("emulated")
def test_the_operators_tests_pass_on_the_emulator(emulated):
    said = pytest_emulated(emulated, ["-k", COMPILED, *FILES], MMLEARNCONV_EMULATOR_ORDER="random")
    assert " passed" in said
    assert "skipped" not in said


@built
@pytest.mark.xdist_group("emulated")
@pytest.mark.parametrize("order", mostly_long(ORDERS, "random"))
def test_random_cases_pass_in_every_order_of_threads(emulated, order):
    """In all dtypes; in float64 40 cases per operation in random order, and 20 in the others."""
    said = pytest_emulated(
        emulated,
        ["-k", "compiled", ROOT / "tests/ops/test_random.py"],
        MMLEARNCONV_EMULATOR_ORDER=order,
        MMLEARNCONV_TEST_CASES="40" if order == "random" else "20",
    )
    assert " passed" in said
    assert "skipped" not in said
