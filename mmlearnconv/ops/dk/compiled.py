"""Local deformable kernels by the compiled operators."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from ..autograd import define, differentiable, forbid_second_derivative
from ..dispatch import (
    accumulate_dtype,
    empty_like,
    match_memory_format,
    product_dtype,
    tile_numel,
    without_autocast,
)
from ..extension import compiled
from ..matmul import matmul_rows, matmul_rows_backward

# Elements that, on the CPU, one tile's resampled input may take: 8 MB in float32.
TILE = 2**21

# The dense local form, in tiles of locations: compiled resampling and PyTorch's products.

_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor offsets, Tensor? data_offsets, SymInt[] kernel_size, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
)


def _fake_dense_gradients(grad, input, weight, offsets, data_offsets, *_):
    return (
        empty_like(input, input.shape),
        weight.new_empty(weight.shape),
        offsets.new_empty(offsets.shape),
        offsets.new_empty(0 if data_offsets is None else offsets.shape),
    )


def _dense_flops(input, weight, offsets, *_, out_shape, **__) -> int:
    """Four cells per tap; then the product with the kernel space."""
    locations = out_shape[0] * prod(out_shape[2:])
    return 4 * locations * input[1] * offsets[1] + 2 * prod(out_shape) * prod(weight[1:])


@define(
    "dk_dense",
    f"({_ARGUMENTS}) -> Tensor",
    lambda input, weight, offsets, *_: empty_like(
        input, (input.shape[0], len(weight), *offsets.shape[2:])
    ),
    _dense_flops,
)
def _dense_forward(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    *geometry: Sequence[int],
) -> Tensor:
    """Resampled columns of the input times the kernel space, a tile of locations at a time."""
    *geometry, groups = geometry
    x, matrices = _prepare(input), _matrices(weight, groups, product_dtype(input))
    sampling = x, *_contiguous(offsets, data_offsets), weight.shape[2:], *geometry
    locations = offsets[:, 0].numel()
    output = x.new_empty(locations, len(weight))
    with without_autocast(input):
        for begin, end, columns in _column_tiles(x, weight, locations):
            _columns(*sampling, begin, end, columns)
            for group, rows in enumerate(columns.unflatten(2, (groups, -1)).unbind(2)):
                piece = slice(group * matrices.shape[1], (group + 1) * matrices.shape[1])
                output[begin:end, piece] = matmul_rows(rows.flatten(1), matrices[group])
    output = output.view(len(x), *offsets.shape[2:], len(weight)).permute(0, 3, 1, 2)
    return match_memory_format(output, input).to(input.dtype)


@define(
    "dk_dense_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_dense_gradients,
)
def _dense_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    *geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *geometry, groups = geometry
    x, matrices = _prepare(input), _matrices(weight, groups, product_dtype(input))
    sampling = x, *_contiguous(offsets, data_offsets), weight.shape[2:], *geometry
    grad = _prepare(grad).permute(0, 2, 3, 1).flatten(0, 2)
    dtype = accumulate_dtype(input.dtype)
    grad_input, grad_matrices = (torch.zeros_like(t, dtype=dtype) for t in (x, matrices))
    grad_offsets = x.new_zeros(offsets.shape, dtype=dtype)
    grad_data = None if data_offsets is None else torch.zeros_like(grad_offsets)
    with without_autocast(input):
        for begin, end, columns in _column_tiles(x, weight, len(grad)):
            _columns(*sampling, begin, end, columns)
            rows = columns.unflatten(2, (groups, -1)).unbind(2)
            grad_rows = []
            for group, own in enumerate(rows):
                piece = slice(group * matrices.shape[1], (group + 1) * matrices.shape[1])
                gradients = matmul_rows_backward(
                    grad[begin:end, piece], own.flatten(1), matrices[group]
                )
                grad_rows.append(gradients[0].view_as(own))
                grad_matrices[group] += gradients[1]
            _columns_backward(
                torch.stack(grad_rows, 2).flatten(2) if groups > 1 else grad_rows[0],
                *(*sampling, begin, end, grad_input, grad_offsets, grad_data),
            )
    grad_weight = grad_matrices.unflatten(2, (*weight.shape[2:], -1)).flatten(0, 1)
    return (
        match_memory_format(grad_input.to(input.dtype), input),
        grad_weight.permute(0, 3, 1, 2).to(weight.dtype, copy=True).contiguous(),
        grad_offsets.to(offsets.dtype),
        offsets.new_empty(0) if grad_data is None else grad_data.to(data_offsets.dtype),
    )


def _context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[4:]


def _dense_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, grad_data = _dense_gradients(grad, *ctx.saved_tensors, *ctx.geometry)
    return *gradients, None if ctx.saved_tensors[3] is None else grad_data, *(None,) * 5


_dense_gradients = forbid_second_derivative("dk_dense_backward")
dense = differentiable("dk_dense", _dense_gradient, _context)


def _prepare(tensor: Tensor) -> Tensor:
    """In channels_last and the dtype of the products."""
    return tensor.to(product_dtype(tensor), memory_format=torch.channels_last)


def _contiguous(*offsets: Tensor | None) -> tuple[Tensor | None, ...]:
    """As every tile reads them: copied once, not once per tile."""
    return tuple(
        None if t is None else t.to(accumulate_dtype(t.dtype)).contiguous() for t in offsets
    )


def _matrices(weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The kernel space as ``(groups, out / groups, scope cells * C / groups)``."""
    matrices = weight.to(dtype).flatten(2)
    return matrices.transpose(1, 2).flatten(1).unflatten(0, (groups, -1)).contiguous()


def _column_tiles(
    input: Tensor, weight: Tensor, locations: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Ranges of locations, and for their columns views of one workspace that is reused."""
    cells = weight.shape[2:].numel()
    step = max(1, min(locations, tile_numel(input, TILE) // max(1, cells * input.shape[1])))
    columns = input.new_empty(step, cells, input.shape[1])
    for begin in range(0, locations, step):
        end = min(begin + step, locations)
        yield begin, end, columns[: end - begin]


# The compiled operators.


def _fake_depthwise_gradients(grad, input, space, offsets, data_offsets, *_):
    grad_offsets = offsets.new_empty(offsets.shape, dtype=accumulate_dtype(input.dtype))
    grad_data = grad_offsets.new_empty(0 if data_offsets is None else offsets.shape)
    return empty_like(input, input.shape), space.new_empty(space.shape), grad_offsets, grad_data


def _depthwise_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    _, _, offsets, data_offsets = ctx.saved_tensors
    *gradients, grad_offsets, grad_data = _depthwise_gradients(
        grad, *ctx.saved_tensors, *ctx.geometry
    )
    return (
        *gradients,
        grad_offsets.to(offsets.dtype),
        None if data_offsets is None else grad_data.to(data_offsets.dtype),
        *(None,) * 4,
    )


_depthwise_gradients = compiled(
    "dk_depthwise_backward", _fake_depthwise_gradients, forbid_second_derivative
)
depthwise = compiled(
    "dk_depthwise",
    lambda input, space, offsets, *_: empty_like(
        input, (input.shape[0], input.shape[1], *offsets.shape[2:])
    ),
    lambda name: differentiable(name, _depthwise_gradient, _context),
    # Four cells of the kernel space and one product with the input per tap.
    lambda _, __, offsets, *rest, out_shape, **___: 5 * prod(out_shape) * offsets[1],
)
_columns = compiled(
    "dk_columns",
    lambda *_: None,
    flops=lambda _, offsets, *rest, **__: 4 * rest[-1][0] * rest[-1][2] * offsets[1],
)
_columns_backward = compiled("dk_columns_backward", lambda *_: None)
