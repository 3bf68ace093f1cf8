"""What nvcc and nvdisasm say of kernels."""

import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.cuda_emulator import INCLUDES, run

_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?(\S+)(.*);")


@dataclass
class Kernel:
    """A kernel's machine code."""

    name: str
    stack: int = 0
    spills: int = 0
    registers: int = 0
    # (opcode, operands), and the index of the instruction behind each label
    instructions: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def loops(self) -> list[Counter]:
        """Instructions of each loop without those of loops inside it, by opcode alone."""
        loops = []
        for i, (opcode, operands) in enumerate(self.instructions):
            target = re.search(r"\.L_x_\d+", operands)
            if opcode.startswith("BRA") and target:
                first = self.labels.get(target.group(), i + 1)
                if first < i:
                    loops.append(range(first, i + 1))
        opcodes = [opcode.split(".")[0] for opcode, _ in self.instructions]
        return [
            Counter(
                opcodes[i]
                for i in loop
                if not any(i in inner and len(inner) < len(loop) for inner in loops)
            )
            for loop in loops
        ]


def compile_kernels(source: Path, architecture: int, folder: Path) -> dict[str, Kernel]:
    """Compile a source for ``sm_<architecture>``: its kernels by their readable names.

    Works with a PyTorch that was built without CUDA.
    """
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
    # A build without CUDA has no file of what CUDA was configured with.
    flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    cubin = folder / f"{source.stem}.{architecture}.cubin"
    target = [f"-arch=sm_{architecture}", "-cubin", source, "-o", cubin]
    said = run(["nvcc", *flags, *INCLUDES, *target])
    kernels = {}
    for mangled, stack, stores, loads, registers in re.findall(
        r"Compiling entry function '(\S+)'.*?\n.*?\n\s*(\d+) bytes stack frame, (\d+) bytes spill "
        r"stores, (\d+) bytes spill loads\n.*?Used (\d+) registers",
        said,
    ):
        kernels[mangled] = Kernel(mangled, int(stack), int(stores) + int(loads), int(registers))
    kernel = None
    for line in run([nvdisasm(), "-c", cubin]).splitlines():
        if line.startswith(".text."):
            kernel = kernels[line.removeprefix(".text.").rstrip(":")]
        elif kernel is not None and (label := re.match(r"\s*(\.L_x_\d+):", line)):
            kernel.labels[label.group(1)] = len(kernel.instructions)
        elif kernel is not None and (instruction := _INSTRUCTION.match(line)):
            kernel.instructions.append(instruction.groups())
    readable = subprocess.run(
        ["c++filt"], input="\n".join(kernels), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name, kernel in zip(readable, kernels.values(), strict=True):
        kernel.name = name.replace("mmlearnconv::", "").replace("(anonymous namespace)::", "")
    return {kernel.name: kernel for kernel in kernels.values()}


def nvdisasm() -> str | None:
    """The program of the package nvidia-cuda-nvdisasm, or of an installed CUDA toolkit."""
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = [str(path) for path in packages.glob("*/bin/nvdisasm")]
    return found[0] if found else shutil.which("nvdisasm")
