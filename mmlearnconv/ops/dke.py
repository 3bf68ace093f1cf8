"""Differentiable kernel evolution: kernels whose taps move over the input by gradient descent."""

import math
from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import reference
from .autocast import to_autocast_dtype, without_autocast
from .autograd import differentiable, differentiated_once, once
from .depthwise import depthwise_taps
from .extension import has_kernels
from .layout import empty_like, lay_out
from .reference import conv_output_size

# Numbers that one tile's interpolated input may take: 4 MB in float32.
_TILE = 2**20


def dke_response(
    positions: Tensor,
    size: Sequence[int],
    interpolation: str,
    alpha: Tensor | float,
    radius: float,
) -> Tensor:
    """:func:`mmlearnconv.ops.reference.dke_response`, with its arguments, differentiable once.

    The Gaussian's gradient is a definition, not the derivative of what it computes: a second one
    would follow neither.
    """
    if interpolation == "gauss":
        positions = differentiated_once(positions, "the gradient of DKE's positions")
    return reference.dke_response(positions, size, interpolation, alpha, radius)


def dke_taps(
    positions: Tensor,
    window: Sequence[int],
    interpolation: str,
    alpha: Tensor | float,
    radius: float,
) -> tuple[Tensor, Tensor]:
    """:func:`~mmlearnconv.ops.dke_response` as lists of the cells that count.

    Args:
        positions: ``(channels, points, 2)``, relative to the window's centre, in cells.
        window: rows and columns.
        interpolation, alpha, radius: as ``dke_response``.

    Returns:
        tuple[Tensor, Tensor]: values ``(channels, points, taps)``, and cells ``(..., taps, 2)``
        from the window's first.
    """
    # The cells within reach of a position lie in a square about the nearest one.
    reach = math.floor((radius if interpolation == "gauss" else 1) + 0.5)
    middles = [(n - 1) / 2 for n in window]
    along = torch.arange(-reach, reach + 1, device=positions.device)
    cells, parts = [], []
    for axis, middle in enumerate(middles):
        place = positions[..., axis] + middle
        nearest = place.detach().round()
        parts.append(place - nearest)
        cells.append(nearest.nan_to_num().long()[..., None] + along)
    side = 2 * reach + 1
    values = dke_response(torch.stack(parts, -1), (side, side), interpolation, alpha, radius)
    rows, columns = torch.broadcast_tensors(cells[0][..., :, None], cells[1][..., None, :])
    return values.flatten(2), torch.stack([rows, columns], -1).flatten(2, 3)


def dke_conv2d(
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    cells: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    attention: Tensor | None = None,
) -> Tensor:
    """Convolution at learned real positions of every input channel.

    The definition is :func:`mmlearnconv.ops.reference.dke_conv2d`, with the response given as
    :func:`dke_taps` does: an interpolated im2col and one matrix product, in tiles of rows.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(out, C / groups, points)``.
        values: ``(C, points, taps)``.
        cells: ``(C, points, taps, 2)``, row and column in the window.
        window: rows and columns.
        stride, dilation: rows and columns each.
        padding: of the window.
        groups: as ``F.conv2d``.
        attention: ``(N, points, H', W')``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    input, weight, attention = to_autocast_dtype(input, weight, attention)
    geometry = tuple(window), tuple(stride), tuple(padding), tuple(dilation)
    if has_kernels(input):
        return _interpolated(input, weight, values, cells, attention, groups, *geometry)
    columns = depthwise_taps(input, values, cells, None, *geometry)
    if attention is not None:
        columns = (columns.unflatten(1, (input.shape[1], -1)) * attention[:, None]).flatten(1, 2)
    return F.conv2d(columns, weight.flatten(1)[..., None, None], groups=groups)


_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor values, Tensor cells, Tensor? attention, SymInt groups, "
    "SymInt[] window, SymInt[] stride, SymInt[] padding, SymInt[] dilation"
)


@torch.library.custom_op(
    "mmlearnconv::dke_conv", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor"
)
def _interpolated_forward(
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    cells: Tensor,
    attention: Tensor | None,
    groups: int,
    *geometry: Sequence[int],
) -> Tensor:
    """Interpolated columns of the input times the weight, a tile of rows at a time."""
    x, matrix, scores = _computed(input, weight.flatten(1)[..., None, None], attention)
    size = conv_output_size(x.shape[2:], *geometry)
    output = empty_like(input, (len(x), len(weight), *size), x.dtype)
    with without_autocast(input):
        for n, rows, _, _, columns in _tiles(x, values, cells, geometry):
            if scores is not None:
                columns *= scores[n, :, rows]
            output[n, :, rows] = F.conv2d(columns.flatten(0, 1)[None], matrix, groups=groups)[0]
    return output.to(input.dtype)


@torch.library.custom_op(
    "mmlearnconv::dke_conv_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _interpolated_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    cells: Tensor,
    attention: Tensor | None,
    groups: int,
    *geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, stride, _, dilation = geometry
    x, matrix, scores, grad = _computed(input, weight.flatten(1)[..., None, None], attention, grad)
    grad_x, grad_matrix = torch.zeros_like(x), torch.zeros_like(matrix)
    grad_values = torch.zeros_like(values, memory_format=torch.contiguous_format)
    grad_scores = None if scores is None else torch.zeros_like(scores)
    with without_autocast(input):
        for n, rows, sees, padding, columns in _tiles(x, values, cells, geometry):
            seen = columns if scores is None else columns * scores[n, :, rows]
            passed, of_matrix, _ = torch.ops.aten.convolution_backward(
                *(grad[None, n, :, rows], seen.flatten(0, 1)[None], matrix, None),
                *([1, 1], [0, 0], [1, 1], False, [0, 0], groups, [True, True, False]),
            )
            grad_matrix += of_matrix
            passed = passed[0].view_as(columns)
            if scores is not None:
                grad_scores[n, :, rows] = (passed * columns).sum(0)
                passed = passed * scores[n, :, rows]
            of_piece, of_values = torch.ops.mmlearnconv.depthwise_taps_backward(
                *(passed.flatten(0, 1)[None], x[None, n, :, sees], values, cells),
                *(stride, padding, dilation, True, True),
            )
            grad_x[n, :, sees] += of_piece[0]
            grad_values += of_values
    return (
        lay_out(grad_x.to(input.dtype), input),
        grad_matrix.view_as(weight).to(weight.dtype),
        grad_values,
        input.new_empty(0) if scores is None else grad_scores.to(attention.dtype),
    )


@_interpolated_forward.register_fake
def _(input, weight, values, cells, attention, groups, *geometry):
    size = conv_output_size(input.shape[2:], *geometry)
    return empty_like(input, (input.shape[0], len(weight), *size))


@_interpolated_backward.register_fake
def _(grad, input, weight, values, cells, attention, *_):
    return (
        empty_like(input, input.shape),
        weight.new_empty(weight.shape),
        values.new_empty(values.shape),
        input.new_empty(0) if attention is None else attention.new_empty(attention.shape),
    )


def _interpolated_context(ctx, inputs, output) -> None:
    *tensors, ctx.groups, window, stride, padding, dilation = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = window, stride, padding, dilation


_interpolated_gradients = once("dke_conv_backward")


def _interpolated_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    arguments = *ctx.saved_tensors, ctx.groups, *ctx.geometry
    *gradients, grad_scores = _interpolated_gradients(grad, *arguments)
    scored = ctx.saved_tensors[4] is not None
    return *gradients, None, grad_scores if scored else None, *(None,) * 5


_interpolated = differentiable("dke_conv", _interpolated_gradient, _interpolated_context)


@register_flop_formula(torch.ops.mmlearnconv.dke_conv)
def _interpolated_flops(input, weight, values, *_, out_shape, **__) -> int:
    """The taps of every channel and point; then the product with the weight."""
    places = out_shape[0] * prod(out_shape[2:])
    return 2 * places * prod(values) + 2 * prod(out_shape) * prod(weight[1:])


def _tiles(
    x: Tensor, values: Tensor, cells: Tensor, geometry: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, slice, slice, tuple[int, int], Tensor]]:
    """Tiles of the output, with what they need.

    An image, rows of its output, the input's rows that they see, the padding that these leave, and
    columns ``(C, points, rows, W')``.
    """
    window, stride, padding, dilation = geometry
    height, width = conv_output_size(x.shape[2:], window, stride, padding, dilation)
    step = max(1, _TILE // max(1, values.shape[0] * values.shape[1] * width))
    for n in range(len(x)):
        for first in range(0, height, step):
            last = min(first + step, height)
            above = padding[0] - first * stride[0]
            below = (last - 1) * stride[0] - padding[0] + dilation[0] * (window[0] - 1) + 1
            begin = min(max(0, -above), x.shape[2])
            sees = slice(begin, max(begin, min(below, x.shape[2])))
            left = above + begin, padding[1]
            columns = torch.ops.mmlearnconv.depthwise_taps(
                *(x[None, n, :, sees], values, cells, None),
                *((last - first, width), stride, left, dilation),
            )
            columns = columns[0].unflatten(0, values.shape[:2])
            yield n, slice(first, last), sees, left, columns


def _computed(input: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """All in the dtype of the sums; maps of planes."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    return tuple(None if t is None else t.to(dtype).contiguous() for t in (input, *others))
