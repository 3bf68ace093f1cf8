"""Draw the pictures of the README: what each operator does with a kernel.

python tools/draw_operators.py [FOLDER]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn

from mmlearnconv.layers import CoCConv2d, DCLSConv2d, DKEConv2d, DRConv2d

SIDE = 1.8  # inches


def dcls(axes: Axes) -> None:
    """A 17x17 kernel of 34 elements, and where they lie."""
    layer = DCLSConv2d(1, 1, 7, bias=False)
    layer.positions.data.mul_(5)
    layer.clamp_parameters()
    kernel = layer.dense_kernel()[0, 0].detach()
    axes.imshow(kernel, cmap="RdBu", vmin=-kernel.abs().max(), vmax=kernel.abs().max())
    rows, columns = (layer.positions.detach()[:, 0, 0] + 8).unbind(0)
    axes.plot(columns, rows, "k.", markersize=3)


def dk(axes: Axes) -> None:
    """Nine taps of a 4x4 kernel space, before and after an image moved them."""
    axes.imshow(torch.randn(4, 4), cmap="Greys", alpha=0.4)
    base = torch.cartesian_prod(*[torch.arange(3) + 0.5] * 2)
    moved = (base + 0.45 * torch.randn(9, 2)).clamp(0, 3)
    for before, after in zip(base, moved, strict=True):
        step = (after - before).flip(0)
        axes.arrow(*before.flip(0), *step, color="C0", head_width=0.12, length_includes_head=True)
    axes.plot(base[:, 1], base[:, 0], "k.", markersize=4)


def dke(axes: Axes) -> None:
    """Taps of one channel at real positions, and the cells that one of them reads."""
    layer = DKEConv2d(1, 1, 3)
    layer.positions.data.mul_(1.5)
    layer.clamp_parameters()
    axes.imshow(layer._response()[0, 4].detach(), cmap="Blues", vmax=0.6)
    middle = (layer.window[0] - 1) / 2
    rows, columns = (layer.positions.detach()[0] + middle).unbind(1)
    axes.plot(columns, rows, "k.", markersize=4)
    axes.plot(columns[4], rows[4], "r.", markersize=7)
    axes.set(xlim=(middle - 5.5, middle + 5.5), ylim=(middle + 5.5, middle - 5.5))


def coc(axes: Axes) -> None:
    """Four 3x3 kernels on a sheet, after a super kernel ran over it."""
    layer = CoCConv2d(1, 4, 3, bias=False)
    nn.init.normal_(layer.super_weight, std=0.4)
    sheet = layer.dense_kernel().detach().view(2, 2, 3, 3).transpose(1, 2).reshape(6, 6)
    axes.imshow(sheet, cmap="RdBu")
    axes.axhline(2.5, color="k")
    axes.axvline(2.5, color="k")


def drconv(axes: Axes) -> None:
    """Which of eight filters each location of a map gets."""
    layer = DRConv2d(4, 4, 3, padding=1)
    noise = torch.randn(1, 4, 12, 12)
    smooth = nn.functional.interpolate(noise, scale_factor=5, mode="bicubic")
    axes.imshow(layer.guide(smooth).argmax(1)[0], cmap="tab10", interpolation="nearest")


PICTURES: tuple[Callable[[Axes], None], ...] = (dcls, dk, dke, coc, drconv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        torch.manual_seed(1)
        figure, axes = plt.subplots(figsize=(SIDE, SIDE))
        draw(axes)
        axes.set(xticks=[], yticks=[])
        figure.savefig(folder / f"{draw.__name__}.png", dpi=100, bbox_inches="tight")
        plt.close(figure)
    print(f"{len(PICTURES)} pictures in {folder}")


if __name__ == "__main__":
    main()
