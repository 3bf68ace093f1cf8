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
_PTX = re.compile(r"\s+(?:@!?%p\d+\s+)?([a-z][\w.]*)(.*);")


@dataclass
class Code:
    """Instructions, ``(opcode, operands)``, with labels between them."""

    instructions: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the instruction behind each

    def loops(self) -> list[range]:
        """From a label to a branch back to it."""
        loops = []
        for i, (opcode, operands) in enumerate(self.instructions):
            target = re.search(r"[.$]L_\w+", operands)
            if opcode.lower().startswith("bra") and target:
                first = self.labels.get(target.group(), i + 1)
                if first <= i:
                    loops.append(range(first, i + 1))
        return loops

    def innermost(self) -> list[range]:
        """Those that hold no other."""
        loops = self.loops()
        return [
            loop
            for loop in loops
            if not any(other[0] in loop and len(other) < len(loop) for other in loops)
        ]


@dataclass
class Kernel:
    """A kernel's machine code, and the PTX that it was assembled from."""

    name: str
    stack: int = 0
    spills: int = 0
    registers: int = 0
    machine: Code = field(default_factory=Code)
    ptx: Code = field(default_factory=Code)

    def loops(self) -> list[Counter]:
        """Instructions of each loop without those of loops inside it, by opcode alone."""
        loops = self.machine.loops()
        opcodes = [opcode.split(".")[0] for opcode, _ in self.machine.instructions]
        return [
            Counter(
                opcodes[i]
                for i in loop
                if not any(i in inner and len(inner) < len(loop) for inner in loops)
            )
            for loop in loops
        ]

    def innermost(self) -> list[Counter]:
        """Instructions of each loop that holds no other, by opcode alone."""
        opcodes = [opcode.split(".")[0] for opcode, _ in self.machine.instructions]
        return [Counter(opcodes[i] for i in loop) for loop in self.machine.innermost()]

    def in_64_bits(self) -> list[str]:
        """Products and quotients of 64-bit integers in loops that hold no other loop.

        A GPU has instructions for products of 32-bit integers in 64 bits; these do not count.
        """
        widened = {
            operands.split(",")[0].strip()
            for opcode, operands in self.ptx.instructions
            if re.match(r"(cvt\.[su]64|ld\..*)\.[su](32|16|8)$", opcode)
        }
        found = []
        for loop in self.ptx.innermost():
            for opcode, operands in self.ptx.instructions[loop.start : loop.stop]:
                factors = [part.strip() for part in operands.split(",")][1:3]
                narrow = all(part in widened or part.lstrip("-").isdigit() for part in factors)
                if re.match(r"(div|rem)\.[su]64", opcode) or (
                    re.match(r"(mul|mad)\.(lo|hi)\.[su]64", opcode) and not narrow
                ):
                    found.append(f"{opcode}{operands}")
        return found


def compile_kernels(source: Path, architecture: int, folder: Path) -> dict[str, Kernel]:
    """Compile a source for ``sm_<architecture>``: its kernels by their readable names.

    Works with a PyTorch that was built without CUDA.
    """
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
    # A build without CUDA has no file of what CUDA was configured with.
    flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    cubin = folder / f"{source.stem}.{architecture}.cubin"
    flags += ["--keep", "--keep-dir", folder]
    target = [f"-arch=sm_{architecture}", "-cubin", source, "-o", cubin]
    said = run(["nvcc", *flags, *INCLUDES, *target])
    kernels = {}
    for mangled, stack, stores, loads, registers in re.findall(
        r"Compiling entry function '(\S+)'.*?\n.*?\n\s*(\d+) bytes stack frame, (\d+) bytes spill "
        r"stores, (\d+) bytes spill loads\n.*?Used (\d+) registers",
        said,
    ):
        kernels[mangled] = Kernel(mangled, int(stack), int(stores) + int(loads), int(registers))
    code = Code()
    for line in run([nvdisasm(), "-c", cubin]).splitlines():
        if line.startswith(".text."):
            code = kernels[line.removeprefix(".text.").rstrip(":")].machine
        else:
            _read(line, code, _INSTRUCTION)
    (ptx,) = folder.glob("*.ptx")
    for line in ptx.read_text().splitlines():
        if entry := re.search(r"\.entry (\w+)\(", line):
            code = kernels[entry.group(1)].ptx
        else:
            _read(line, code, _PTX)
    readable = subprocess.run(
        ["c++filt"], input="\n".join(kernels), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name, kernel in zip(readable, kernels.values(), strict=True):
        kernel.name = name.replace("mmlearnconv::", "").replace("(anonymous namespace)::", "")
    return {kernel.name: kernel for kernel in kernels.values()}


def _read(line: str, code: Code, pattern: re.Pattern) -> None:
    if label := re.match(r"\s*([.$]L_\w+):", line):
        code.labels[label.group(1)] = len(code.instructions)
    elif instruction := pattern.match(line):
        code.instructions.append(instruction.groups())


def nvdisasm() -> str | None:
    """The program of the package nvidia-cuda-nvdisasm, or of an installed CUDA toolkit."""
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = [str(path) for path in packages.glob("*/bin/nvdisasm")]
    return found[0] if found else shutil.which("nvdisasm")
