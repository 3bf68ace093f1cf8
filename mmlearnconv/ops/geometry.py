"""Stride, padding, dilation and sizes of a convolution, and the input under its taps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserValueError
from .dispatch import is_cpu


class Geometry(NamedTuple):
    """Stride, padding with zeros, dilation and groups, as ``F.conv2d`` takes them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def geometry_of(
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int = 1,
    dims: int = 2,
) -> Geometry:
    """The four arguments of a convolution as one value, a number for each axis."""
    return Geometry(*(each_axis(value, dims) for value in (stride, padding, dilation)), groups)


def without_groups(geometry: Geometry) -> tuple[tuple[int, ...], ...]:
    """Stride, padding and dilation."""
    # Not a slice: PyTorch 2.6 does not compile that of a NamedTuple.
    return geometry.stride, geometry.padding, geometry.dilation


def each_axis(value: int | Sequence[int], dims: int = 2) -> tuple[int, ...]:
    """Expand one integer for all axes to one per axis; a sequence becomes a tuple."""
    return tuple(value) if isinstance(value, Sequence) else (value,) * dims


def conv_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: int,
) -> tuple[int, ...]:
    """Output size of a convolution on a map of ``size``; further arguments (groups) are ignored.

    Raises:
        ValueError: the kernel is larger than the padded map.
    """
    room = [
        n + 2 * p - d * (k - 1) - 1
        for n, k, p, d in zip(size, kernel_size, padding, dilation, strict=True)
    ]
    if min(room) < 0:
        raise UserValueError(
            f"the map has size {tuple(size)}, with padding {tuple(padding)}: smaller than a kernel "
            f"of {tuple(kernel_size)} at dilation {tuple(dilation)}"
        )
    return tuple(r // s + 1 for r, s in zip(room, stride, strict=True))


def zero_unread_taps(
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The kernel with zeros in taps that lie beyond the map at every place; their gradient is zero.

    A strided kernel has such taps on a map of few pixels. On CPUs that multiply in bfloat16, oneDNN
    (3.12) returns as their gradient what lay in memory. Graphs, which hold for other sizes too, and
    taps that are not finite are left as they are.

    Args:
        weight: ``(..., *kernel_size)``.
        size: of the map.
        stride, padding, dilation: one integer per axis.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not is_cpu(weight):
        return weight
    kernel_size = weight.shape[-len(size) :]
    places = conv_output_size(size, kernel_size, stride, padding, dilation)
    for axis, (n, k, o, s, p, d) in enumerate(
        zip(size, kernel_size, places, stride, padding, dilation, strict=True)
    ):
        # What the first and last tap read, and that no tap between them falls beside the map.
        if n >= s and p <= (o - 1) * s and d * (k - 1) < p + n:
            continue
        read = [any(0 <= s * i + d * tap - p < n for i in range(o)) for tap in range(k)]
        shape = [k if a == axis else 1 for a in range(len(size))]
        kept = torch.tensor(read, device=weight.device).view(shape) | ~weight.isfinite()
        weight = torch.where(kept, weight, 0)
    return weight


def im2col(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The input under each tap of a kernel at each output location: ``(N, C, kH * kW, H', W')``."""
    size = conv_output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    columns = F.unfold(input, tuple(kernel_size), tuple(dilation), tuple(padding), tuple(stride))
    return columns.reshape(*input.shape[:2], kernel_size[0] * kernel_size[1], *size)


def tap_views(
    padded: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
) -> list[Tensor]:
    """The padded input under each tap, tap after tap, as views."""
    views = []
    for u in range(kernel_size[0]):
        for v in range(kernel_size[1]):
            top, left = u * dilation[0], v * dilation[1]
            bottom = top + (output_size[0] - 1) * stride[0] + 1
            right = left + (output_size[1] - 1) * stride[1] + 1
            views.append(padded[..., top : bottom : stride[0], left : right : stride[1]])
    return views


def under_middle(
    padded: Tensor,
    window: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    after: Sequence[int] = (0, 0),
) -> Tensor:
    """The input under the middle of a window at stride 1, zero outside the map.

    Args:
        padded: the input, with any padding beyond ``padding`` already applied.
        window: its rows and columns.
        padding, dilation: of the window.
        after: rows and columns of zeros to add at the bottom and right. Default: ``(0, 0)``.
    """
    sides = []
    for axis in (1, 0):
        reach = dilation[axis] * (window[axis] - 1)
        sides.append(padding[axis] - reach // 2)
        sides.append(padding[axis] - (reach - reach // 2) + after[axis])
    return F.pad(padded, sides)
