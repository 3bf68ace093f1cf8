"""What the CUDA kernels should take, computed from their work: no GPU is needed, none was used.

PYTHONPATH=. python benchmarks/gpu_model.py [--shares]

Every kernel repeats a step: a multiply-add of a convolution, or a tap of a location and channel. A
thread's step takes some instructions, some of which access memory. A kernel takes as long as the
slowest of three: issuing its instructions (128 lanes per clock and multiprocessor), its accesses of
shared memory and of the first cache (32 lanes), and its traffic with memory, each map once. A
matrix product takes as long as the slower of its multiply-adds and its traffic. All at the card's
peaks: launches of a few microseconds each are not counted, nor is waiting. ``--shares`` counts the
instructions in the machine code for sm_90 (nvcc and nvdisasm); else they are those of the last
count.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """A GPU's peaks, from its data sheet: multiply-adds and bytes per second."""

    name: str
    macs: float  # float32
    tf32_macs: float
    bandwidth: float


CARDS = (
    Card("H100 SXM", 67e12 / 2, 494.7e12 / 2, 3.35e12),
    Card("RTX 4090", 82.6e12 / 2, 82.6e12 / 2, 1.008e12),
)


@dataclass(frozen=True)
class Step:
    """Instructions of a thread per step of an inner loop, and those that access memory."""

    instructions: float
    accesses: float


# Where the inner loops are: source, how the kernel's name begins, the opcode that counts steps, and
# how often a step has it.
LOOPS = {
    "depthwise": ("depthwise", "void depthwise_forward_kernel<17, false>", "FFMA", 1),
    "depthwise weight": ("depthwise", "void depthwise_weight_grad_kernel<17>", "FFMA", 1),
    "taps": ("depthwise_taps", "void sum_taps<float, float, true>", "FFMA", 1),
    "taps input": ("depthwise_taps", "void sum_taps<float, float, false>", "FFMA", 1),
    "taps values": ("depthwise_taps", "void sum_values<float, float>", "FFMA", 1),
    "dk columns": ("dk", "void each_warp<DkColumns<float, float, false>", "LDG", 1),
    "dk dense input": ("dk", "void each_warp<DkInputGrad<float, float, false>", "LDG", 4),
    "dk dense offsets": ("dk", "void each_warp<DkOffsetGrad<float, float, false, false>", "LDG", 5),
    "dk depthwise": ("dk", "void each_warp<DkDepthwise<float, float, false>", "LDG", 5),
    "dk input": ("dk", "void each_warp<DkInputGrad<float, float, true>", "LDG", 5),
    "dk offsets": ("dk", "void each_warp<DkOffsetGrad<float, float, false, true>", "LDG", 6),
    "dk space": ("dk", "void each_warp<DkSpaceGrad<float, float, false>", "LDG", 2),
    "drconv gather": ("drconv", "void each_warp<Gather<float, float>", "LDG", 1),
    "drconv input": ("drconv", "void each_warp<GatherInputGrad<float, float>", "LDG", 2),
    "drconv pattern": ("drconv", "void each_warp<PatternGrad<float, float>", "LDG", 2),
    "drconv inner": ("drconv", "void each_warp<Inner<float, float>", "LDG", 2),
}
COUNTED = {
    "depthwise": Step(1.12, 0.05),
    "depthwise weight": Step(1.32, 0.06),
    "taps": Step(4.58, 1.50),
    "taps input": Step(4.58, 1.50),
    "taps values": Step(5.00, 1.03),
    "dk columns": Step(30.25, 11.25),
    "dk dense input": Step(16.50, 5.25),
    "dk dense offsets": Step(40.00, 5.00),
    "dk depthwise": Step(34.50, 7.25),
    "dk input": Step(29.50, 6.50),
    "dk offsets": Step(26.00, 6.00),
    "dk space": Step(33.00, 12.25),
    "drconv gather": Step(17.75, 3.00),
    "drconv input": Step(26.25, 4.00),
    "drconv pattern": Step(26.00, 2.00),
    "drconv inner": Step(19.25, 3.00),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel's work."""

    name: str
    launches: int
    steps: float
    step: Step
    bytes: float

    def ms(self, card: Card, tf32: bool = False) -> float:
        """Predicted milliseconds on a card."""
        issue = self.steps * self.step.instructions / card.macs
        access = self.steps * self.step.accesses / (card.macs / 4)
        return 1e3 * max(issue, access, self.bytes / card.bandwidth)


@dataclass(frozen=True)
class Product:
    """A matrix product ``(rows, inner) @ (inner, columns)``, in float32."""

    name: str
    rows: float
    inner: float
    columns: float
    traffic: float | None = None  # bytes, if not all three matrices once

    @property
    def bytes(self) -> float:
        """Traffic with memory."""
        if self.traffic is not None:
            return self.traffic
        sizes = self.rows * self.inner, self.inner * self.columns, self.rows * self.columns
        return 4 * sum(sizes)

    def ms(self, card: Card, tf32: bool = False) -> float:
        """Predicted milliseconds on a card."""
        macs = self.rows * self.inner * self.columns
        peak = card.tf32_macs if tf32 else card.macs
        return 1e3 * max(macs / peak, self.bytes / card.bandwidth)


Work = Sequence[Kernel | Product]


def _whole_tiles(size: int, most: int, own: int) -> int:
    """Outputs of all tiles along an axis: tiles of at most ``most``, threads of ``own`` each."""
    tiles = math.ceil(size / most)
    return tiles * math.ceil(math.ceil(size / tiles) / own) * own


def depthwise(shape: tuple[int, int, int, int], size: int, steps: dict[str, Step]) -> list[Kernel]:
    """The kernels of a depthwise convolution of stride 1, in float32."""
    batch, channels, height, width = shape
    planes = batch * channels
    # A thread computes 8 columns of 3 rows; a block 64 x 48 at most.
    issued = planes * _whole_tiles(height, 48, 3) * _whole_tiles(width, 64, 8) * size**2
    # Slices share pieces of 16 rows and 64 columns, in groups of 8.
    slices = 256 // size
    pieces = math.ceil(height / 16) * math.ceil(width / 64)
    groups = 16 * math.ceil(min(width, 64) / 8)
    rounds = math.ceil(groups / slices) * slices / groups
    in_pieces = planes * pieces * groups * 8 * size**2 * rounds
    maps = 2 * 4 * planes * height * width
    what = f"depthwise {size}x{size}, {'x'.join(map(str, shape))}"
    return [
        Kernel(f"{what}, forward", 1, issued, steps["depthwise"], maps),
        Kernel(f"{what}, input gradient", 1, issued, steps["depthwise"], maps),
        Kernel(f"{what}, weight gradient", 2, in_pieces, steps["depthwise weight"], maps),
    ]


def dcls(kernels: int, count: int, window: int) -> Kernel:
    """Construction of DCLS kernels: a dozen instructions per cell and element."""
    work = kernels * count * math.ceil(window**2 / 32) * 32
    traffic = 4 * kernels * (window**2 + 3 * count)
    name = f"DCLS construction, {kernels} kernels of {window}x{window}, {count} elements"
    return Kernel(name, 1, work, Step(12, 3), traffic)


# The operators below on 2x256x50x76, 256 outputs, 3x3 taps; depthwise on 1x128x100x152, of as many
# elements.
LOCATIONS, CHANNELS, TAPS, REGIONS = 2 * 50 * 76, 256, 9, 8
MAP = 4 * LOCATIONS * CHANNELS  # bytes
PER_TAP = LOCATIONS * CHANNELS * TAPS


def plain() -> tuple[Work, Work]:
    """The plain convolution, forward and backward."""
    # A library's columns stay on the chip.
    own = Product("plain 3x3", LOCATIONS, TAPS * CHANNELS, CHANNELS, traffic=2 * MAP)
    return [own], [own, own]


def products(name: str, inner: int) -> tuple[Product, Product, Product]:
    """Columns times the weight, and the gradients of both."""
    return (
        Product(f"{name}, product", LOCATIONS, inner, CHANNELS),
        Product(f"{name}, gradient of the columns", LOCATIONS, CHANNELS, inner),
        Product(f"{name}, gradient of the weight", inner, LOCATIONS, CHANNELS),
    )


def dke(steps: dict[str, Step]) -> tuple[Work, Work]:
    """9 points, 25 taps each within a radius of 2, without attention."""
    # Blocks of 1024 outputs.
    taps = PER_TAP * 25 * math.ceil(3800 / 1024) * 1024 / 3800
    values = taps * 32 / 25
    columns = Kernel("DKE, columns", 1, taps, steps["taps"], (1 + TAPS) * MAP)
    product, *gradients = products("DKE", TAPS * CHANNELS)
    backward = [
        columns,
        *gradients,
        Kernel("DKE, input gradient", 1, taps, steps["taps input"], (1 + TAPS) * MAP),
        # In registers for 32 values, of which 25 are there.
        Kernel("DKE, gradient of the values", 2, values, steps["taps values"], (1 + TAPS) * MAP),
    ]
    return [columns, product], backward


def dk_dense(steps: dict[str, Step], cells: int = 16) -> tuple[Work, Work]:
    """Local, a kernel space of 4x4."""
    columns = Kernel("DK, columns", 1, PER_TAP, steps["dk columns"], (1 + cells) * MAP)
    product, *gradients = products("DK", cells * CHANNELS)
    backward = [
        columns,
        *gradients,
        Kernel("DK, input gradient", 1, PER_TAP, steps["dk dense input"], (1 + cells) * MAP),
        Kernel("DK, offsets' gradient", 1, PER_TAP, steps["dk dense offsets"], (1 + cells) * MAP),
    ]
    return [columns, product], backward


def dk_depthwise(steps: dict[str, Step]) -> tuple[Work, Work]:
    """Local, a kernel space of 4x4."""
    forward = [Kernel("DK depthwise", 1, PER_TAP, steps["dk depthwise"], 2 * MAP)]
    backward = [
        Kernel("DK depthwise, input gradient", 1, PER_TAP, steps["dk input"], 2 * MAP),
        Kernel("DK depthwise, offsets' gradient", 1, PER_TAP, steps["dk offsets"], 2 * MAP),
        Kernel("DK depthwise, weight gradient", 2, PER_TAP, steps["dk space"], 2 * MAP),
    ]
    return forward, backward


def plain_depthwise() -> tuple[Work, Work]:
    """Reads and writes its maps."""
    own = Kernel("depthwise 3x3", 1, PER_TAP, Step(1, 1), 2 * MAP)
    return [own], [own, own]


def drconv(steps: dict[str, Step]) -> tuple[Work, Work]:
    """Factorised, 8 regions, without a base kernel."""
    gather = Kernel("DRConv, gathering", 1, PER_TAP, steps["drconv gather"], 3 * MAP)
    product, *gradients = products("DRConv", 2 * CHANNELS)
    responses = 2 * REGIONS * CHANNELS
    inner, traffic = PER_TAP * REGIONS, (1 + responses / CHANNELS) * MAP
    backward = [
        gather,
        *gradients,
        Kernel("DRConv, input gradient", 1, PER_TAP, steps["drconv input"], 3 * MAP),
        Kernel("DRConv, pattern's gradient", 2, PER_TAP, steps["drconv pattern"], 3 * MAP),
        Product("DRConv, responses", LOCATIONS, CHANNELS, responses),
        Kernel(
            "DRConv, guide's gradient",
            1,
            inner,
            steps["drconv inner"],
            traffic,
        ),
    ]
    return [gather, product], backward


def _table(lines: list[list[str]]) -> str:
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kernels(steps: dict[str, Step]) -> str:
    """Each kernel's prediction, as Markdown."""
    own: list[Kernel] = [
        *depthwise((2, 96, 200, 304), 17, steps),
        *depthwise((2, 96, 200, 304), 7, steps),
        *depthwise((2, 768, 25, 38), 17, steps),
        dcls(768, 34, 17),
    ]
    for operator in (dke, dk_dense, dk_depthwise, drconv):
        for work in operator(steps):
            own += [k for k in work if isinstance(k, Kernel) and k not in own]
    heads = ["kernel", "launches", "G steps", "instructions", "accesses", "MB"]
    lines = [[*heads, *(f"ms, {card.name}" for card in CARDS)]]
    for k in own:
        cells = [k.name, str(k.launches), f"{k.steps / 1e9:.2f}", f"{k.step.instructions:.1f}"]
        cells += [f"{k.step.accesses:.2f}", f"{k.bytes / 1e6:.1f}"]
        lines.append([*cells, *(f"{k.ms(card):.3f}" for card in CARDS)])
    return _table(lines)


def operators(steps: dict[str, Step]) -> str:
    """Whole operators beside plain convolutions, on the first card, as Markdown."""
    card = CARDS[0]
    heads = ["operator", "products", "forward", "/ plain", "forward + backward", "/ plain"]
    lines = [heads]
    rows: list[tuple[str, Callable, Callable]] = [
        ("DKE 3x3", dke, plain),
        ("DK local 3x3", dk_dense, plain),
        ("DRConv 3x3, no base", drconv, plain),
        ("DK local, depthwise 3x3", dk_depthwise, plain_depthwise),
    ]
    for name, operator, other in rows:
        for tf32 in (False, True) if other is plain else (False,):
            cells = [name, "TF32" if tf32 else "float32"]
            both = operator(steps), other()
            for passes in (1, 2):
                ours, theirs = (
                    sum(k.ms(card, tf32) for work in side[:passes] for k in work) for side in both
                )
                cells += [f"{ours:.3f}", f"{ours / theirs:.1f}"]
            lines.append(cells)
    return _table(lines)


def count_steps() -> dict[str, Step]:
    """Steps in the machine code for sm_90."""
    from tests.cuda_emulator import SOURCES
    from tests.cuda_emulator.machine_code import compile_kernels

    def compiled(source: Path) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            return compile_kernels(source, 90, Path(folder))

    wanted = [path for path in SOURCES if path.stem in {source for source, *_ in LOOPS.values()}]
    with ThreadPoolExecutor(2) as pool:
        sources = dict(zip((p.stem for p in wanted), pool.map(compiled, wanted), strict=True))
    steps = {}
    for what, (source, name, opcode, count) in LOOPS.items():
        (kernel,) = [k for known, k in sources[source].items() if known.startswith(name)]
        loops = kernel.loops() if opcode == "FFMA" else kernel.innermost()
        for loop in loops:
            loop["LDG"] += loop.pop("LD", 0)  # through a pointer that shared memory holds
        # Of several that do as much, the shortest: others are for what shared memory cannot hold.
        loop = max(loops, key=lambda loop: (loop[opcode], -loop.total()))
        done = loop[opcode] / count
        accesses = sum(loop[name] for name in ("LDG", "LDS", "STS", "STG", "ST"))
        steps[what] = Step(loop.total() / done, accesses / done)
    return steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", action="store_true", help="count in the machine code")
    steps = count_steps() if parser.parse_args().shares else COUNTED
    print(kernels(steps), operators(steps), sep="\n\n")
