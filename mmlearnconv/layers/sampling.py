"""Where a layer's window lies in its input: what ``sampling`` of the layers is made of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import LearnableConv


def points_at(
    locations: Tensor, layer: "LearnableConv", window: Sequence[int], steps: Tensor
) -> Tensor:
    """Points of a layer's window at output locations.

    Args:
        locations: ``(L, 2)``, rows and columns of the output.
        layer: whose stride, padding and dilation count.
        window: rows and columns.
        steps: ``(P, 2)`` or ``(L, P, 2)``, rows and columns from the window's first cell.

    Returns:
        Tensor: ``(L, P, 2)``, rows and columns in cells of the input; negative in the padding.
    """
    sides = zip(layer._padding_sides()[-2::-2], layer._extra_padding(window), strict=True)
    padding = [side + extra for side, extra in sides]
    return moved_steps(locations, layer.stride, padding, layer.dilation, steps)


def moved_steps(
    locations: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    steps: Tensor,
) -> Tensor:
    """:func:`points_at` for a convolution of this stride, padding before, and dilation."""
    starts = locations * locations.new_tensor(stride) - locations.new_tensor(padding)
    return starts[:, None].to(steps) + steps * steps.new_tensor(dilation)


def cells_of(window: Sequence[int], like: Tensor) -> Tensor:
    """Rows and columns of a window's cells, ``(rows * columns, 2)``, with a tensor's dtype."""
    return torch.cartesian_prod(*(torch.arange(n, device=like.device) for n in window)).to(like)


def weight_of_cells(kernels: Tensor, shares: Tensor) -> Tensor:
    """Absolute values summed over channels.

    Args:
        kernels: ``(L or 1, out, in / groups, rows, columns)``.
        shares: ``(L, out)``, how much each output channel counts.

    Returns:
        Tensor: ``(L, rows * columns)``.
    """
    by_channel = kernels.abs().sum(2).flatten(2)
    return torch.einsum("lo,lop->lp", shares, by_channel.expand(len(shares), -1, -1))


def values_at(locations: Tensor, maps: Tensor) -> Tensor:
    """``(..., H, W)`` at locations ``(L, 2)``: ``(L, ...)``."""
    return maps[..., locations[:, 0], locations[:, 1]].movedim(-1, 0)


def cells_at(
    locations: Tensor, shares: Tensor, layer: "LearnableConv", kernels: Tensor
) -> tuple[Tensor, Tensor]:
    """Points and weights of kernels' cells, as ``LearnableConv.sampling`` returns them.

    Args:
        locations, shares: as there.
        layer: whose stride, padding and dilation count.
        kernels: ``(L or 1, out, in / groups, rows, columns)``.
    """
    window = kernels.shape[3:]
    points = points_at(locations, layer, window, cells_of(window, kernels))
    return points, weight_of_cells(kernels, shares)
