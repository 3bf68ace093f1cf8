"""Linear interpolation at real positions, with the same derivatives on all paths; and NaN."""

import torch
from torch import Tensor


def within(position: Tensor, low: float, high: float) -> Tensor:
    """Positions clipped to ``[low, high]``, with no gradient outside; NaN stays NaN.

    At a bound the gradient is passed on. That of ``clamp`` there depends on PyTorch's version.
    """
    inside = (position >= low) & (position <= high)
    return torch.where(inside, position, position.detach().clamp(low, high))


def linear_coefficients(positions: Tensor, cells: int) -> Tensor:
    """Linear interpolation at positions in ``[0, cells - 1]``, as coefficients of the cells.

    ``B(p, s) = (1 - r) [s == f] + r [s == f + 1]`` with ``f = floor(p)`` and ``r = p - f``,
    positions clipped first. The derivative at an integer is the right-hand one, at the last cell
    the left-hand one: both edges of the space let a position back in. NaN gives NaN.

    Returns:
        Tensor: ``(*positions.shape, cells)``.
    """
    p = within(positions, 0, cells - 1)[..., None]
    f = p.detach().floor().clamp(max=max(cells - 2, 0))
    # Where there is one cell, there is nowhere to move.
    r = p - f if cells > 1 else (p - f).detach()
    s = torch.arange(cells, dtype=p.dtype, device=p.device)
    return torch.where(s == f, 1 - r, torch.where(s == f + 1, r, 0 * r))


def sample(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of ``(N, C, H, W)`` at pixel positions ``(N, ...)``, zero outside the map.

    Returns:
        Tensor: ``(N, C, ...)``, NaN where a position is.
    """
    height, width = input.shape[2:]
    y, x = within(y, -2, height + 1), within(x, -2, width + 1)
    y0, x0 = y.detach().floor(), x.detach().floor()
    output = input.new_zeros(())
    for row, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = index.nan_to_num().long().flatten(1)[:, None].expand(-1, input.shape[1], -1)
            value = input.flatten(2).gather(2, index).unflatten(2, y.shape[1:])
            output = output + value * (weight_y * weight_x * inside)[:, None]
    return output


def nan_if_any(tensor: Tensor, *axes: int) -> Tensor:
    """NaN where any element along the axes is NaN, else zero, with ``keepdim=True``.

    Added to a result, it keeps a NaN from being lost where the values that it scales are not read.
    """
    found = tensor.detach().isnan().any(axes, keepdim=True)
    return torch.zeros(found.shape, dtype=tensor.dtype, device=tensor.device).masked_fill(
        found, torch.nan
    )
