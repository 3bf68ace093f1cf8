"""CUDA sources without a GPU: run on the CPU (emulator.h), and their machine code."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests.conftest import ROOT

FOLDER = Path(__file__).parent
SOURCES = sorted((ROOT / "mmlearnconv/ops/csrc/cuda").glob("*.cu"))
# The order in which the threads of a block, and the blocks of a grid, are resumed.
ORDERS = ("forward", "reverse", "random")
# Faults that a GPU would not report end the process.
SANITIZERS = ["-fsanitize=address,alignment,signed-integer-overflow", "-fno-sanitize-recover=all"]
# Operations take a GPU's way, with the emulated library.
PLUGIN = """
import sys
import torch
import mmlearnconv.ops

torch.ops.load_library({library!r})
mmlearnconv.ops.extension._kernels = mmlearnconv.ops.extension._find_kernels()
for name, module in list(sys.modules.items()):
    if name.startswith("mmlearnconv.ops") and hasattr(module, "is_cpu"):
        module.is_cpu = lambda tensor: False
"""
_TORCH = Path(torch.__file__).parent
INCLUDES = [
    f"-I{path}"
    for path in (
        ROOT,
        _TORCH / "include",
        _TORCH / "include/torch/csrc/api/include",
        sysconfig.get_paths()["include"],
    )
]
# PyTorch 2.6 was built with the C++ library's old layout.
INCLUDES.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")


def run(command: Sequence[str | Path], **environment: str) -> str:
    """What a command prints; an ``AssertionError`` with the end of it if the command fails."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


def build_emulated(folder: Path) -> Path:
    """Compile the CUDA sources for the CPU: a library that takes the place of its operations."""
    flags = ["-x", "c++", "-std=c++20", "-O1", "-g1", "-fPIC", "-Wno-psabi", "-Wno-attributes"]
    flags += ["-include", FOLDER / "emulator.h", f"-I{FOLDER / 'include'}", *INCLUDES]

    def compiled(source: Path) -> Path:
        output = folder / f"{source.stem}.o"
        run(["g++", *flags, *SANITIZERS, "-c", source, "-o", output])
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, SOURCES))
    library = folder / "emulated.so"
    links = [f"-L{_TORCH}/lib", "-lc10", "-ltorch_cpu"]
    run(["g++", "-shared", *SANITIZERS, *objects, "-o", library, *links])
    return library


def pytest_emulated(library: Path, arguments: Sequence[str | Path], **environment: str) -> str:
    """Run tests in a process whose operations are the emulated ones; what pytest prints."""
    folder = library.parent
    (folder / "emulated_operations.py").write_text(PLUGIN.format(library=str(library)))
    plugin = ["-p", "emulated_operations", "-p", "no:cacheprovider"]
    return run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-s", *plugin, *arguments],
        **_sanitized(),
        PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
        OMP_NUM_THREADS="1",
        **environment,
    )


def _sanitized() -> Mapping[str, str]:
    # Both have to be there before Python: the first replaces what the second throws with.
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}.so"], text=True).strip()
        for name in ("libasan", "libstdc++")
    ]
    return dict(LD_PRELOAD=" ".join(libraries), ASAN_OPTIONS="detect_leaks=0:abort_on_error=1")
