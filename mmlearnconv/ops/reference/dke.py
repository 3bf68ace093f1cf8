"""The definition of differentiable kernel evolution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import im2col

__all__ = ["dke_conv2d", "dke_response"]


def dke_response(
    positions: Tensor,
    window: Sequence[int],
    interpolation: str,
    alpha: Tensor | float,
    radius: float,
) -> Tensor:
    """Interpolation weights of a window's cells for the value at a real position.

    ``'gauss'``: ``G(s, y) = exp(-alpha |s - y|^2) / C`` over the cells with ``|s - y| <= radius``,
    with ``C`` the sum over these cells. ``C`` is constant in the backward pass, so that ``dG/dy = 2
    alpha G (s - y)`` (Differentiable Kernel Evolution, Eq. 13-15). ``'bilinear'``: the product of
    two triangle functions, ``max(0, 1 - |s - y|)`` per axis.

    Args:
        positions: ``(..., 2)``, relative to the window's centre, in cells.
        window: its rows and columns.
        interpolation: ``'gauss'`` or ``'bilinear'``.
        alpha, radius: of ``'gauss'``.

    Returns:
        Tensor: ``(..., rows, columns)``.
    """
    sides = (
        torch.arange(n, dtype=positions.dtype, device=positions.device) - (n - 1) / 2
        for n in window
    )
    # (cells, 2)
    between = torch.cartesian_prod(*sides).view(-1, 2) - positions[..., None, :]
    if interpolation == "bilinear":
        return (1 - between.abs()).relu().prod(-1).unflatten(-1, tuple(window))
    squared = between.square().sum(-1)
    bell = torch.where(squared <= radius**2, torch.exp(-alpha * squared), 0)
    return (bell / bell.detach().sum(-1, keepdim=True)).unflatten(-1, tuple(window))


def dke_conv2d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    window: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    attention: Tensor | None = None,
    interpolation: str = "gauss",
    alpha: Tensor | float = 2.0,
    radius: float = 2.0,
) -> Tensor:
    """Convolution whose taps lie at learned real positions, different ones for each input channel.

    ``O(x) = sum_c sum_y a_y(x) f_c(x + y) w_c(y)``, ``f_c(x + y) = sum_s G_c(s, y) f_c(x + s)``.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(out, C / groups, points)``.
        positions: ``y``, ``(C, points, 2)`` or ``(1, points, 2)``, from the window's centre.
        window: its rows and columns.
        bias: ``(out,)`` or ``None``.
        stride, dilation: rows and columns each.
        padding: of the window.
        groups: as ``F.conv2d``.
        attention: ``a``, ``(N, points, H', W')``.
        interpolation, alpha, radius: of G, as :func:`dke_response`.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    response = dke_response(positions, window, interpolation, alpha, radius)
    response = response.expand(input.shape[1], -1, -1, -1)
    columns = im2col(input, window, stride, padding, dilation)
    values = torch.einsum("cps,ncshw->ncphw", response.flatten(2), columns)
    if attention is not None:
        values = values * attention[:, None]
    values = values.unflatten(1, (groups, -1))
    weight = weight.unflatten(0, (groups, -1))
    output = torch.einsum("gocp,ngcphw->ngohw", weight, values).flatten(1, 2)
    return output if bias is None else output + bias[:, None, None]
