"""What the CUDA kernels should take, computed from their work: no GPU is needed, none was used.

python benchmarks/gpu_model.py [--shares]

A kernel takes as long as the slower of its multiply-adds and its memory traffic. Multiply-adds are
those of whole tiles, at the share of issued instructions that the inner loop spends on them
(``--shares`` reads it from the machine code for sm_90, with nvcc and nvdisasm); traffic is every
map once. Launches of a few microseconds each are not counted.
"""

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """A GPU's peaks: float32 multiply-adds and bytes per second, from its data sheet."""

    name: str
    macs: float
    bandwidth: float


CARDS = (Card("H100 SXM", 67e12 / 2, 3.35e12), Card("RTX 4090", 82.6e12 / 2, 1.008e12))
# Share of multiply-adds in the inner loops for 17 columns, sm_90: tests/ops/test_cuda_sources.py
# holds them above these.
SHARES = {"forward": 0.75, "weight gradient": 0.60}


@dataclass(frozen=True)
class Kernel:
    """One kernel's work."""

    name: str
    launches: int
    macs: float
    issued: float  # multiply-adds with those of tiles that reach beyond the map
    bytes: float
    share: float

    def ms(self, card: Card) -> float:
        """Predicted milliseconds on a card."""
        return 1e3 * max(self.issued / self.share / card.macs, self.bytes / card.bandwidth)


def _whole_tiles(size: int, most: int, own: int) -> int:
    """Outputs of all tiles along an axis: tiles of at most ``most``, threads of ``own`` each."""
    tiles = math.ceil(size / most)
    return tiles * math.ceil(math.ceil(size / tiles) / own) * own


def depthwise(
    shape: tuple[int, int, int, int], size: int, shares: dict[str, float]
) -> list[Kernel]:
    """The kernels of a depthwise convolution of stride 1, in float32."""
    batch, channels, height, width = shape
    planes = batch * channels
    macs = planes * height * width * size**2
    # A thread computes 8 columns of 3 rows; a block 64 x 48 at most.
    issued = planes * _whole_tiles(height, 48, 3) * _whole_tiles(width, 64, 8) * size**2
    # Slices share pieces of 16 rows and 64 columns, in groups of 8.
    slices = 256 // size
    pieces = math.ceil(height / 16) * math.ceil(width / 64)
    groups = 16 * math.ceil(min(width, 64) / 8)
    rounds = math.ceil(groups / slices) * slices / groups
    in_pieces = planes * pieces * groups * 8 * size**2 * rounds
    maps = 4 * planes * height * width
    what = f"depthwise {size}x{size}, {'x'.join(map(str, shape))}"
    return [
        Kernel(f"{what}, forward", 1, macs, issued, 2 * maps, shares["forward"]),
        Kernel(f"{what}, input gradient", 1, macs, issued, 2 * maps, shares["forward"]),
        Kernel(f"{what}, weight gradient", 2, macs, in_pieces, 2 * maps, shares["weight gradient"]),
    ]


def dcls(kernels: int, count: int, window: int) -> Kernel:
    """Construction of DCLS kernels: a dozen instructions per cell and element."""
    work = kernels * count * math.ceil(window**2 / 32) * 32
    traffic = 4 * kernels * (window**2 + 3 * count)
    name = f"DCLS construction, {kernels} kernels of {window}x{window}, {count} elements"
    return Kernel(name, 1, work, work, traffic, 1 / 12)


def table(shares: dict[str, float]) -> str:
    """All predictions as Markdown."""
    kernels = [
        *depthwise((2, 96, 200, 304), 17, shares),
        *depthwise((2, 96, 200, 304), 7, shares),
        *depthwise((2, 768, 25, 38), 17, shares),
        dcls(768, 34, 17),
    ]
    heads = ["kernel", "launches", "G multiply-adds", "issued", "MB", "share"]
    heads += [f"ms, {card.name}" for card in CARDS]
    lines = [heads, ["---"] * len(heads)]
    for k in kernels:
        cells = [k.name, str(k.launches), f"{k.macs / 1e9:.2f}", f"{k.issued / 1e9:.2f}"]
        cells += [f"{k.bytes / 1e6:.1f}", f"{k.share:.2f}"]
        lines.append([*cells, *(f"{k.ms(card):.3f}" for card in CARDS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shares_of_machine_code() -> dict[str, float]:
    """The shares for 17 columns on sm_90."""
    from tests.cuda_emulator import SOURCES
    from tests.cuda_emulator.machine_code import compile_kernels

    (source,) = [path for path in SOURCES if path.stem == "depthwise"]
    with tempfile.TemporaryDirectory() as folder:
        kernels = compile_kernels(source, 90, Path(folder))
    found = {}
    for what, name in (
        ("forward", "void depthwise_forward_kernel<17, false>"),
        ("weight gradient", "void depthwise_weight_grad_kernel<17>"),
    ):
        (kernel,) = [kernel for known, kernel in kernels.items() if known.startswith(name)]
        loop = max(kernel.loops(), key=lambda loop: loop["FFMA"])
        found[what] = loop["FFMA"] / loop.total()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", action="store_true", help="read shares from the machine code")
    print(table(shares_of_machine_code() if parser.parse_args().shares else SHARES))
