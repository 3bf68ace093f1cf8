"""The definition of DCLS."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserValueError
from ..interpolation import within

__all__ = ["dcls_conv2d", "dcls_kernel"]

# Constants of the authors' package: minimum widths, and epsilon for the division by a sum.
TRIANGLE_WIDTH = 1.0
GAUSS_WIDTH = 0.27
NORM_EPS = 1e-7


def dcls_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """Dense kernel of a dilated convolution with learnable spacings.

    ``K[s] = sum_e weight[e] * g(s, positions[e])`` over the cells ``s`` of a window, with ``q`` the
    position in window coordinates, ``q = positions + size // 2``, and ``g`` one of

    - ``'bilinear'``: ``prod_axis (1 - r) [s == f] + r [s == f + 1]``, ``f = floor(q)``,
      ``r = q - f`` (Khalfaoui-Hassani et al. 2023, Eq. 2-5; the derivative of ``floor`` is zero);
    - ``'triangle'``: ``prod_axis relu(1 + |width| - |s - q|)``, divided by its sum over the window;
    - ``'gauss'``: ``exp(-1/2 sum_axis ((s - q) / (0.27 + |width|))^2)``, divided by its sum.

    A position that is not a number makes all of its kernel's cells NaN.

    Args:
        weight: ``(out, in / groups, count)``.
        positions: ``(D, out, in / groups, count)``, in cells relative to the window's centre cell.
        size: the window's ``D`` side lengths, in cells.
        interpolation: ``'bilinear'``, ``'triangle'`` or ``'gauss'``.
        width: as ``positions``; ``None`` is zero. Not used by ``'bilinear'``.

    Returns:
        Tensor: ``(out, in / groups, *size)``.
    """
    dims = len(size)
    kernel_shape = (*weight.shape, *size)
    response = weight.new_ones(kernel_shape)
    exponent = weight.new_zeros(kernel_shape)
    for axis, cells in enumerate(size):
        view = [1] * len(kernel_shape)
        view[weight.ndim + axis] = cells
        s = torch.arange(cells, dtype=weight.dtype, device=weight.device).view(view)
        q = (positions[axis] + cells // 2)[(...,) + (None,) * dims]
        w = 0 if width is None else width[axis].abs()[(...,) + (None,) * dims]
        if interpolation == "bilinear":
            q = within(q, -2, cells + 1)
            f = q.detach().floor()
            r = q - f
            response = response * torch.where(s == f, 1 - r, torch.where(s == f + 1, r, 0 * r))
        elif interpolation == "triangle":
            response = response * (TRIANGLE_WIDTH + w - (s - q).abs()).relu()
        elif interpolation == "gauss":
            exponent = exponent - ((s - q) / (GAUSS_WIDTH + w)) ** 2 / 2
        else:
            raise UserValueError(f"interpolation: {interpolation!r} is unknown")
    if interpolation == "gauss":
        response = exponent.exp()
    if interpolation != "bilinear":
        window = tuple(range(weight.ndim, response.ndim))
        response = response / (response.sum(window, keepdim=True) + NORM_EPS)
    return (weight[(...,) + (None,) * dims] * response).sum(weight.ndim - 1)


def dcls_conv2d(
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
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """A convolution with :func:`dcls_kernel`, ``(N, out, H', W')``; arguments as there."""
    kernel = dcls_kernel(weight, positions, window, interpolation, width)
    return F.conv2d(input, kernel, bias, stride, padding, dilation, groups)
