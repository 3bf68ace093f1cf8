"""DKE: differentiable kernel evolution, kernels whose taps move by gradient descent."""

import math
from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserValueError
from .autograd import define, differentiable, differentiated_once, forbid_second_derivative
from .depthwise import convolve, depthwise_taps
from .dispatch import (
    accumulate_dtype,
    add_bias_and_format,
    check_devices,
    empty_like,
    in_full_precision,
    match_memory_format,
    product_dtype,
    tile_numel,
    to_autocast_dtype,
    use_compiled,
    without_autocast,
)
from .extension import compiled, has_kernels_for
from .geometry import conv_output_size, geometry_of, without_groups

__all__ = ["dke_conv2d", "dke_kernel", "dke_response"]

INTERPOLATIONS = ("gauss", "bilinear")
# Elements that, on the CPU, one tile's interpolated input may take: 4 MB in float32.
_TILE = 2**20


def dke_conv2d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    window: Sequence[int],
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    attention: Tensor | None = None,
    interpolation: str = "gauss",
    alpha: Tensor | float = 2.0,
    radius: float = 2.0,
) -> Tensor:
    """Convolution whose taps lie at learned real positions, different ones for each input channel.

    ``O(x) = sum_c sum_y a_y(x) f_c(x + y) w_c(y) + b``, ``f_c(x + y) = sum_s G_c(s, y) f_c(x + s)``
    with G of :func:`dke_response` (Differentiable Kernel Evolution, Eq. 13-15). Computed as an
    interpolated im2col and a matrix product, in tiles of rows; depthwise and without attention, as
    a convolution with the kernel of :func:`dke_kernel`.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(out, C / groups, points)``.
        positions: ``(C, points, 2)``, or ``(1, points, 2)`` for all channels, row and column in
            cells from the window's centre. Cells beyond the window count for nothing; a position
            within reach of no cell gives zero, or NaN with ``'gauss'``.
        window: its rows and columns.
        bias: ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``, of the window.
        attention: a, ``(N, points, H', W')``. Default: one everywhere.
        interpolation: ``'gauss'`` or ``'bilinear'``. Default: ``'gauss'``.
        alpha, radius: of ``'gauss'``, sharpness and reach in cells. Default: 2, 2.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices, an unknown interpolation.
    """
    check_devices(input=input, weight=weight, positions=positions, attention=attention, bias=bias)
    geometry = geometry_of(stride, padding, dilation, groups)
    if attention is None and groups == input.shape[1] == len(weight):
        kernel = dke_kernel(weight, positions, window, groups, interpolation, alpha, radius)
        return convolve(input, kernel, bias, *geometry)
    arguments = positions, window, interpolation, alpha, radius
    values, cells = in_full_precision(dke_taps, *arguments)
    values = values.expand(input.shape[1], -1, -1)
    cells = cells.expand(input.shape[1], -1, -1, -1)
    original, (input, weight, attention) = input, to_autocast_dtype(input, weight, attention)
    if use_compiled(input):
        output = _interpolated(input, weight, values, cells, attention, tuple(window), *geometry)
    else:
        columns = depthwise_taps(input, values, cells, window, None, *without_groups(geometry))
        if attention is not None:
            columns = columns.unflatten(1, (input.shape[1], -1)) * attention[:, None]
            columns = columns.flatten(1, 2)
        output = F.conv2d(columns, weight.flatten(1)[..., None, None], groups=groups)
    return add_bias_and_format(output, bias, original)


def dke_kernel(
    weight: Tensor,
    positions: Tensor,
    window: Sequence[int],
    groups: int = 1,
    interpolation: str = "gauss",
    alpha: Tensor | float = 2.0,
    radius: float = 2.0,
) -> Tensor:
    """The dense kernel of :func:`dke_conv2d` without attention; the arguments are the same.

    Returns:
        Tensor: ``(out, C / groups, *window)``, in the weight's dtype.

    Raises:
        ValueError: tensors on several devices, or an unknown interpolation.
    """
    check_devices(weight=weight, positions=positions)
    response = in_full_precision(_response, positions, window, interpolation, alpha, radius)
    response = response.to(weight.dtype)
    response = response.expand(weight.shape[1] * groups, -1, -1, -1).unflatten(0, (groups, -1))
    with without_autocast(weight):
        by_group = weight.unflatten(0, (groups, -1))
        return torch.einsum("gocp,gcpuv->gocuv", by_group, response).flatten(0, 1)


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
    alpha G (s - y)`` (Differentiable Kernel Evolution, Eq. 13-15). The paper defines this gradient;
    it is not the derivative of G, so second derivatives raise an error. ``'bilinear'``: the product
    of two triangle functions, ``max(0, 1 - |s - y|)`` per axis.

    Args:
        positions: ``(..., 2)``, relative to the window's centre, in cells.
        window: its rows and columns.
        interpolation: ``'gauss'`` or ``'bilinear'``.
        alpha, radius: of ``'gauss'``.

    Returns:
        Tensor: ``(..., rows, columns)``.

    Raises:
        ValueError: an unknown interpolation.
    """
    response = in_full_precision(_response, positions, window, interpolation, alpha, radius)
    return response.to(positions.dtype)


def _response(
    positions: Tensor,
    window: Sequence[int],
    interpolation: str,
    alpha: Tensor | float,
    radius: float,
) -> Tensor:
    _check_interpolation(interpolation)
    if interpolation == "gauss":
        positions = differentiated_once(positions, "the gradient of DKE's positions")
    y, x = (
        torch.arange(n, dtype=positions.dtype, device=positions.device) - (n - 1) / 2
        for n in window
    )
    dy = y[:, None] - positions[..., 0, None, None]
    dx = x - positions[..., 1, None, None]
    if interpolation == "bilinear":
        return (1 - dy.abs()).relu() * (1 - dx.abs()).relu()
    squared = dy**2 + dx**2
    bell = torch.where(squared <= radius**2, torch.exp(-alpha * squared), 0)
    return bell / bell.detach().sum((-2, -1), keepdim=True)


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise UserValueError(f"interpolation: {interpolation!r}; allowed are {INTERPOLATIONS}")


def dke_taps(
    positions: Tensor,
    window: Sequence[int],
    interpolation: str,
    alpha: Tensor | float,
    radius: float,
) -> tuple[Tensor, Tensor]:
    """:func:`dke_response` as lists of the cells within reach; those outside the window are zero.

    Args:
        positions: ``(channels, points, 2)``, relative to the window's centre, in cells.
        window: its rows and columns.
        interpolation, alpha, radius: as :func:`dke_response`.

    Returns:
        tuple[Tensor, Tensor]: values ``(channels, points, taps)``, and cells ``(..., taps, 2)``
        from the window's first.

    Raises:
        ValueError: an unknown interpolation.
    """
    _check_interpolation(interpolation)
    if has_kernels_for(positions.device.type, "dke_taps"):
        if not isinstance(alpha, Tensor):
            alpha = positions.new_full((), alpha)
        arguments = alpha.to(positions.dtype), tuple(window), interpolation == "gauss", radius
        return _compiled_taps(positions.contiguous(), *arguments)
    # The cells within reach of a position lie in a square about the nearest one.
    reach = _reach(interpolation == "gauss", radius)
    along = torch.arange(-reach, reach + 1, device=positions.device)
    cells, parts = [], []
    for axis, size in enumerate(window):
        location = positions[..., axis] + (size - 1) / 2
        nearest = location.detach().round()
        parts.append(location - nearest)
        cells.append(nearest.nan_to_num().long()[..., None] + along)
    side = 2 * reach + 1
    values = dke_response(torch.stack(parts, -1), (side, side), interpolation, alpha, radius)
    rows, columns = torch.broadcast_tensors(cells[0][..., :, None], cells[1][..., None, :])
    inside = (rows >= 0) & (rows < window[0]) & (columns >= 0) & (columns < window[1])
    values = torch.where(inside | values.isnan(), values, 0)
    if interpolation == "gauss":
        # The normaliser is the sum over the cells of the window.
        values = values / values.detach().sum((-2, -1), keepdim=True)
    cells = [rows.clamp(0, window[0] - 1), columns.clamp(0, window[1] - 1)]
    return values.flatten(2), torch.stack(cells, -1).flatten(2, 3)


def _reach(gauss: bool, radius: float) -> int:
    """How many cells from the nearest one a position reaches."""
    return math.floor((radius if gauss else 1) + 0.5)


def _fake_taps(positions, alpha, window, gauss, radius):
    taps = (2 * _reach(gauss, radius) + 1) ** 2
    values = positions.new_empty(*positions.shape[:2], taps)
    return values, values.new_empty(*values.shape, 2, dtype=torch.long)


def _taps_context(ctx, inputs, output) -> None:
    positions, alpha, *ctx.arguments = inputs
    ctx.save_for_backward(positions, output[0], alpha)
    ctx.mark_non_differentiable(output[1])


def _taps_gradient(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_positions, of_points = _taps_gradients(grad, *ctx.saved_tensors, *ctx.arguments)
    grad_alpha = of_points.sum() if ctx.needs_input_grad[1] else None
    return grad_positions, grad_alpha, None, None, None


_taps_gradients = compiled(
    "dke_taps_backward",
    lambda _, positions, values, *__: (
        torch.empty_like(positions),
        positions.new_empty(values.shape[:2]),
    ),
    forbid_second_derivative,
)
_compiled_taps = compiled(
    "dke_taps", _fake_taps, lambda name: differentiable(name, _taps_gradient, _taps_context)
)

_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor values, Tensor cells, Tensor? attention, "
    "SymInt[] window, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
)


def _fake(input, weight, values, cells, attention, *geometry):
    size = conv_output_size(input.shape[2:], *geometry)
    return empty_like(input, (input.shape[0], len(weight), *size))


def _fake_gradients(grad, input, weight, values, cells, attention, *_):
    return (
        empty_like(input, input.shape),
        weight.new_empty(weight.shape),
        values.new_empty(values.shape),
        input.new_empty(0) if attention is None else attention.new_empty(attention.shape),
    )


def _flops(input, weight, values, *_, out_shape, **__) -> int:
    """The taps of every channel and point; then the product with the weight."""
    locations = out_shape[0] * prod(out_shape[2:])
    return 2 * locations * prod(values) + 2 * prod(out_shape) * prod(weight[1:])


@define("dke_conv", f"({_ARGUMENTS}) -> Tensor", _fake, _flops)
def _forward(
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    cells: Tensor,
    attention: Tensor | None,
    *geometry: Sequence[int],
) -> Tensor:
    """Interpolated columns of the input times the weight, tile by tile."""
    *geometry, groups = geometry
    x, matrix, scores = _prepare(input, weight.flatten(1)[..., None, None], attention)
    size = conv_output_size(x.shape[2:], *geometry)
    output = empty_like(input, (len(x), len(weight), *size), x.dtype)
    with without_autocast(input):
        for images, rows, _, _, columns in _tiles(x, values, cells, geometry):
            if scores is not None:
                columns *= scores[images, None, :, rows]
            output[images, :, rows] = F.conv2d(columns.flatten(1, 2), matrix, groups=groups)
    return output.to(input.dtype)


@define(
    "dke_conv_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_gradients,
)
def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    cells: Tensor,
    attention: Tensor | None,
    *geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *geometry, groups = geometry
    _, stride, _, dilation = geometry
    x, matrix, scores, grad = _prepare(input, weight.flatten(1)[..., None, None], attention, grad)
    dtype = accumulate_dtype(x.dtype)
    grad_x, grad_matrix = (torch.zeros_like(t, dtype=dtype) for t in (x, matrix))
    grad_values = torch.zeros_like(values, memory_format=torch.contiguous_format)
    grad_scores = None if scores is None else torch.zeros_like(scores)
    with without_autocast(input):
        for images, rows, sees, padding, columns in _tiles(x, values, cells, geometry):
            patch = columns if scores is None else columns * scores[images, None, :, rows]
            passed, of_matrix, _ = torch.ops.aten.convolution_backward(
                *(grad[images, :, rows], patch.flatten(1, 2), matrix, None),
                *([1, 1], [0, 0], [1, 1], False, [0, 0], groups, [True, True, False]),
            )
            grad_matrix += of_matrix
            passed = passed.unflatten(1, columns.shape[1:3])
            if scores is not None:
                products = passed * columns
                grad_scores[images, :, rows] = products.sum(1, dtype=dtype).to(scores.dtype)
                passed = passed * scores[images, None, :, rows]
            of_piece, of_values = torch.ops.mmlearnconv.depthwise_taps_backward(
                *(passed.flatten(1, 2), x[images, :, sees], values, cells),
                *(stride, padding, dilation, True, True),
            )
            grad_x[images, :, sees] += of_piece
            grad_values += of_values
    return (
        match_memory_format(grad_x.to(input.dtype), input),
        grad_matrix.view_as(weight).to(weight.dtype),
        grad_values,
        input.new_empty(0) if scores is None else grad_scores.to(attention.dtype),
    )


def _context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.geometry = inputs[5:]


def _gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, grad_scores = _gradients(grad, *ctx.saved_tensors, *ctx.geometry)
    scored = ctx.saved_tensors[4] is not None
    return *gradients, None, grad_scores if scored else None, *(None,) * 5


_gradients = forbid_second_derivative("dke_conv_backward")
_interpolated = differentiable("dke_conv", _gradient, _context)


def _tiles(
    x: Tensor, values: Tensor, cells: Tensor, geometry: Sequence[tuple[int, int]]
) -> Iterator[tuple[slice, slice, slice, tuple[int, int], Tensor]]:
    """Yield the tiles of the output: some rows of an image, or some images.

    A tile is a slice of images, a slice of output rows, the slice of input rows that they read, the
    padding relative to these input rows, and columns ``(images, C, points, rows, W')``.
    """
    window, stride, padding, dilation = geometry
    height, width = conv_output_size(x.shape[2:], window, stride, padding, dilation)
    row = values.shape[0] * values.shape[1] * width
    step = max(1, tile_numel(x, _TILE) // max(1, row))
    images = max(1, step // max(1, height))
    for n in range(0, len(x), images):
        of_images = slice(n, min(n + images, len(x)))
        for first in range(0, height, step):
            last = min(first + step, height)
            above = padding[0] - first * stride[0]
            below = (last - 1) * stride[0] - padding[0] + dilation[0] * (window[0] - 1) + 1
            begin = min(max(0, -above), x.shape[2])
            sees = slice(begin, max(begin, min(below, x.shape[2])))
            left = above + begin, padding[1]
            columns = torch.ops.mmlearnconv.depthwise_taps(
                *(x[of_images, :, sees], values, cells, None),
                *((last - first, width), stride, left, dilation),
            )
            columns = columns.unflatten(1, values.shape[:2])
            yield of_images, slice(first, last), sees, left, columns


def _prepare(input: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """All tensors contiguous, in the dtype of the product."""
    dtype = product_dtype(input)
    return tuple(None if t is None else t.to(dtype).contiguous() for t in (input, *others))
