"""DK: deformable kernels, convolutions whose kernel is resampled from a larger one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import UserValueError
from ..dispatch import (
    accumulate_dtype,
    add_bias_and_format,
    check_devices,
    tile_numel,
    to_autocast_dtype,
    use_compiled,
)
from ..dynamic_kernel import conv2d_per_sample
from ..geometry import Geometry, conv_output_size, each_axis, geometry_of, im2col, without_groups
from ..interpolation import linear_coefficients, nan_if_any, sample
from .compiled import TILE, dense, depthwise

__all__ = ["dk_conv2d"]


def dk_conv2d(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: int | Sequence[int],
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    data_offsets: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel is resampled from a larger kernel space.

    ``O_j = sum_k I[j + k + g_jk] W(k + delta_jk)``, W bilinear in the kernel space, the taps at
    unit spacing from ``(scope - kernel_size) / 2``, positions clipped to the space (Gao et al.
    2020, Eq. 7; with data offsets ``g``, Eq. 11).

    If each image has offsets for one location only, it has one kernel, and the convolution is an
    ordinary one. Otherwise the input is resampled instead of the kernel, which is equivalent since
    sampling is linear in the kernel space: ``P[c, k', j] = sum_k B(k_j, k') I[c, j + k]`` for each
    cell k' of the space, then multiplied with the kernel space. This is done in tiles of locations,
    since ``P`` is larger than the input by a factor of the number of cells. For depthwise
    convolutions the compiled operation resamples each location's kernel on the fly.

    Args:
        input: ``(N, C, H, W)``.
        weight: the kernel space, ``(out, C / groups, scope rows, scope columns)``.
        offsets: ``delta``, in cells of the kernel space, with the row and the column offset of each
            tap as consecutive channels: ``(N, 2 * kH * kW, H', W')``, or ``(N, 2 * kH * kW, 1, 1)``
            for all locations.
        kernel_size: taps, one integer or (rows, columns); at most the scope.
        bias: ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``, of the taps.
        data_offsets: ``g``, in pixels, ``(N, 2 * kH * kW, H', W')``. Default: ``None``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices, offsets of another shape, or a kernel space smaller
            than ``kernel_size``.
    """
    check_devices(input=input, weight=weight, offsets=offsets, data_offsets=data_offsets, bias=bias)
    kernel_size = each_axis(kernel_size)
    geometry = geometry_of(stride, padding, dilation, groups)
    output_size = conv_output_size(input.shape[2:], kernel_size, *geometry)
    if any(s < k for s, k in zip(weight.shape[2:], kernel_size, strict=True)):
        raise UserValueError(
            f"weight: a kernel space of {tuple(weight.shape[2:])}; must not be smaller than "
            f"kernel_size={kernel_size}"
        )
    _check_offsets("offsets", offsets, input, kernel_size, output_size, one_location=True)
    if data_offsets is not None:
        _check_offsets("data_offsets", data_offsets, input, kernel_size, output_size)
    if offsets.shape[2:] == (1, 1) and data_offsets is None:
        output = _with_kernel_per_sample(input, weight, offsets, kernel_size, geometry)
        return add_bias_and_format(output, bias, input)
    input, weight = to_autocast_dtype(input, weight)
    offsets = offsets.expand(-1, -1, *output_size)
    arguments = input, weight, offsets, data_offsets, kernel_size
    if not use_compiled(input):
        output = _in_tiles(*arguments, geometry, output_size)
    elif groups == input.shape[1] == len(weight):
        output = depthwise(*arguments, *without_groups(geometry))
    else:
        output = dense(*arguments, *geometry)
    return add_bias_and_format(output, bias, input)


def _check_offsets(
    name: str,
    offsets: Tensor,
    input: Tensor,
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    one_location: bool = False,
) -> None:
    sizes = [tuple(output_size)] + [(1, 1)] * one_location
    expected = input.shape[0], 2 * kernel_size[0] * kernel_size[1]
    if offsets.shape[:2] != expected or tuple(offsets.shape[2:]) not in sizes:
        choice = " or ".join(map(str, ((*expected, *size) for size in sizes)))
        raise UserValueError(f"{name}: shape {tuple(offsets.shape)}; must be {choice}")


def dk_coefficients(offsets: Tensor, kernel_size: Sequence[int], scope: Sequence[int]) -> Tensor:
    """Bilinear weight of each cell of the kernel space for each tap of a deformable kernel.

    ``B(k, k') = b(y_k + dy_k, k'_y) b(x_k + dx_k, k'_x)`` (Gao et al. 2020, Eq. 13).

    Args:
        offsets: ``(N, 2 * kH * kW, H', W')``, row and column of tap after tap, in cells.
        kernel_size: rows and columns of taps.
        scope: rows and columns of the kernel space.

    Returns:
        Tensor: ``(N, kH * kW, scope cells, H', W')``, in float32 at least.
    """
    # In half precision a position would be rounded into another cell.
    offsets = offsets.to(accumulate_dtype(offsets.dtype)).unflatten(1, (*kernel_size, 2))
    rows = torch.arange(kernel_size[0], device=offsets.device) + (scope[0] - kernel_size[0]) / 2
    columns = torch.arange(kernel_size[1], device=offsets.device) + (scope[1] - kernel_size[1]) / 2
    y = offsets[:, :, :, 0] + rows.to(offsets)[:, None, None, None]
    x = offsets[:, :, :, 1] + columns.to(offsets)[:, None, None]
    b_y = linear_coefficients(y, scope[0])[..., :, None]
    b_x = linear_coefficients(x, scope[1])[..., None, :]
    return (b_y * b_x).flatten(1, 2).flatten(-2).permute(0, 1, 4, 2, 3)


def _with_kernel_per_sample(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    geometry: Geometry,
) -> Tensor:
    """Offsets of one location: an ordinary convolution per image."""
    coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])[..., 0, 0]
    # Also where the tap that it moves lies off the map.
    coefficients = coefficients + nan_if_any(coefficients, 1, 2)

    def kernels(coefficients: Tensor) -> Tensor:
        cells = weight.flatten(2)
        built = torch.einsum("ocs,nks->nock", cells.to(coefficients.dtype), coefficients)
        return built.to(weight.dtype).unflatten(3, tuple(kernel_size))

    numel = weight.shape[0] * weight.shape[1] * coefficients.shape[1]
    return conv2d_per_sample(input, coefficients, kernels, numel, *geometry)


def _in_tiles(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    kernel_size: Sequence[int],
    geometry: Geometry,
    output_size: Sequence[int],
) -> Tensor:
    """Local kernels with PyTorch's own operations, a tile of output rows at a time."""
    stride, padding, dilation, groups = geometry
    source = input
    if data_offsets is None:
        source = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))

    def tile(input, weight, offsets, data_offsets, first_row):
        """Output rows from ``first_row`` on, as many as there are offsets."""
        if data_offsets is None:
            begin = first_row * stride[0]
            length = (offsets.shape[2] - 1) * stride[0] + dilation[0] * (kernel_size[0] - 1) + 1
            rows = input[:, :, begin : begin + length]
            columns = im2col(rows, kernel_size, stride, (0, 0), dilation)
        else:
            # The tile's first row is row 0 of its own offsets.
            above = padding[0] - first_row * stride[0]
            columns = _deformable_im2col(
                input, data_offsets, kernel_size, stride, (above, padding[1]), dilation
            ).to(input.dtype)
        coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])
        return _multiply(columns, coefficients, weight, groups)

    per_row = input.shape[0] * input.shape[1] * weight[0, 0].numel() * output_size[1]
    step = max(1, tile_numel(input, TILE) // max(1, per_row))
    outputs = []
    for row in range(0, output_size[0], step):
        arguments = (
            source,
            weight,
            offsets[:, :, row : row + step],
            None if data_offsets is None else data_offsets[:, :, row : row + step],
            row,
        )
        if step < output_size[0] and torch.is_grad_enabled():
            outputs.append(checkpoint(tile, *arguments, use_reentrant=False))
        else:
            outputs.append(tile(*arguments))
    return torch.cat(outputs, 2)


def _deformable_im2col(
    input: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """``im2col`` with every tap moved: ``offsets`` as in :func:`dk_coefficients`, in pixels."""
    height, width = offsets.shape[2:]
    offsets = offsets.to(accumulate_dtype(offsets.dtype)).unflatten(1, (*kernel_size, 2))

    def grid(axis: int, count: int) -> Tensor:
        taps = torch.arange(kernel_size[axis]) * dilation[axis] - padding[axis]
        locations = torch.arange(count) * stride[axis]
        return (taps[:, None] + locations).to(offsets)

    y = offsets[:, :, :, 0] + grid(0, height)[:, None, :, None]
    x = offsets[:, :, :, 1] + grid(1, width)[None, :, None, :]
    return sample(input, y.flatten(1, 2), x.flatten(1, 2))


def _multiply(columns: Tensor, coefficients: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Resample ``(N, C, k, h, w)`` by ``(N, k, s, h, w)``, multiply with ``(out, C / g, s)``."""
    batch, channels, _, height, width = columns.shape
    coefficients = coefficients.to(columns.dtype)
    # One small product per location: (s, k) by (k, C).
    resampled = coefficients.permute(0, 3, 4, 2, 1).flatten(0, 2) @ columns.permute(
        0, 3, 4, 2, 1
    ).flatten(0, 2)
    flat = weight.flatten(2)
    if groups == channels == len(weight):
        output = (resampled * flat[:, 0].T).sum(1)
    else:
        # (g, locations, s C / g) by (g, s C / g, out / g)
        resampled = resampled.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).flatten(2)
        flat = flat.unflatten(0, (groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)
        output = (resampled @ flat).permute(1, 0, 2).flatten(1)
    return output.view(batch, height, width, len(weight)).permute(0, 3, 1, 2)
