"""Deformable kernels: convolutions whose kernel is resampled from a larger one."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from .autocast import to_autocast_dtype, without_autocast
from .autograd import differentiable, once
from .extension import has_kernels, operator
from .layout import empty_like, lay_out
from .nan import nan_if_any
from .per_image import conv2d_per_image
from .product import rows_product, rows_product_backward
from .reference import conv_output_size, deformable_im2col, dk_coefficients, im2col

# Numbers that one tile's resampled input may take: 8 MB in float32.
_TILE = 2**21


def dk_conv2d(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    data_offsets: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel is resampled from a larger kernel space.

    The definition, with the arguments' shapes, is :func:`mmlearnconv.ops.reference.dk_conv2d`.

    Offsets of one place an image give each image one kernel and an ordinary convolution. Otherwise
    sampling is linear in the kernel space, so the input is resampled instead, for each scope cell
    k': ``P[c, k', j] = sum_k B(k_j, k') I[c, j + k]``, and multiplied with the kernel space; some
    locations at a time, since ``P`` is scope squared times the input. Depthwise and compiled, the
    kernel of each location is resampled as it goes.
    """
    if offsets.shape[2:] == (1, 1) and data_offsets is None:
        coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])[..., 0, 0]
        # Also where the tap that it moves lies off the map.
        coefficients = coefficients + nan_if_any(coefficients, 1, 2)

        def kernels(coefficients: Tensor) -> Tensor:
            cells = weight.flatten(2)
            built = torch.einsum("ocs,nks->nock", cells.to(coefficients.dtype), coefficients)
            return built.to(weight.dtype).unflatten(3, tuple(kernel_size))

        numel = weight.shape[0] * weight.shape[1] * coefficients.shape[1]
        return conv2d_per_image(
            input, coefficients, kernels, numel, stride, padding, dilation, groups
        )
    input, weight = to_autocast_dtype(input, weight)
    output_size = conv_output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    offsets = offsets.expand(-1, -1, *output_size)
    if has_kernels(input):
        geometry = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
        if groups == input.shape[1] == len(weight):
            return operator("dk_depthwise")(input, weight, offsets, data_offsets, *geometry)
        return _dense(input, weight, offsets, data_offsets, groups, *geometry)
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
            columns = deformable_im2col(
                input, data_offsets, kernel_size, stride, (above, padding[1]), dilation
            ).to(input.dtype)
        coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])
        return _multiply(columns, coefficients, weight, groups)

    per_row = input.shape[0] * input.shape[1] * weight[0, 0].numel() * output_size[1]
    step = max(1, _TILE // max(1, per_row))
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
    return lay_out(torch.cat(outputs, 2), input)


def _multiply(columns: Tensor, coefficients: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Resample ``(N, C, k, h, w)`` by ``(N, k, s, h, w)``, multiply with ``(out, C / g, s)``."""
    batch, channels, _, height, width = columns.shape
    coefficients = coefficients.to(columns.dtype)
    # One small product a location: (s, k) by (k, C).
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


_GEOMETRY = (
    "SymInt groups, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation"
)


@torch.library.custom_op(
    "mmlearnconv::dk_dense",
    mutates_args=(),
    schema=f"(Tensor input, Tensor weight, Tensor offsets, Tensor? data_offsets, {_GEOMETRY}) "
    "-> Tensor",
)
def _dense_forward(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    groups: int,
    *geometry: Sequence[int],
) -> Tensor:
    """Resampled columns of the input times the kernel space, a tile of locations at a time."""
    x, matrices = _computed(input), _matrices(weight, groups, input.dtype)
    sampling = x, offsets, data_offsets, weight.shape[2:], *geometry
    places = offsets[:, 0].numel()
    output = x.new_empty(places, len(weight))
    with without_autocast(input):
        for begin, end, columns in _column_tiles(x, weight, places):
            torch.ops.mmlearnconv.dk_columns(*sampling, begin, end, columns)
            for group, rows in enumerate(columns.unflatten(2, (groups, -1)).unbind(2)):
                piece = slice(group * matrices.shape[1], (group + 1) * matrices.shape[1])
                output[begin:end, piece] = rows_product(rows.flatten(1), matrices[group])
    output = output.view(len(x), *offsets.shape[2:], len(weight)).permute(0, 3, 1, 2)
    return lay_out(output, input).to(input.dtype)


@torch.library.custom_op(
    "mmlearnconv::dk_dense_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor input, Tensor weight, Tensor offsets, Tensor? data_offsets, "
    f"{_GEOMETRY}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _dense_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    groups: int,
    *geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, matrices = _computed(input), _matrices(weight, groups, input.dtype)
    sampling = x, offsets, data_offsets, weight.shape[2:], *geometry
    grad = _computed(grad).permute(0, 2, 3, 1).flatten(0, 2)
    grad_input = torch.zeros_like(x)
    grad_matrices = torch.zeros_like(matrices)
    grad_offsets = x.new_zeros(offsets.shape)
    grad_data = None if data_offsets is None else torch.zeros_like(grad_offsets)
    with without_autocast(input):
        for begin, end, columns in _column_tiles(x, weight, len(grad)):
            torch.ops.mmlearnconv.dk_columns(*sampling, begin, end, columns)
            rows = columns.unflatten(2, (groups, -1)).unbind(2)
            grad_rows = []
            for group, own in enumerate(rows):
                piece = slice(group * matrices.shape[1], (group + 1) * matrices.shape[1])
                gradients = rows_product_backward(
                    grad[begin:end, piece], own.flatten(1), matrices[group]
                )
                grad_rows.append(gradients[0].view_as(own))
                grad_matrices[group] += gradients[1]
            torch.ops.mmlearnconv.dk_columns_backward(
                torch.stack(grad_rows, 2).flatten(2) if groups > 1 else grad_rows[0],
                *(*sampling, begin, end, grad_input, grad_offsets, grad_data),
            )
    grad_weight = grad_matrices.unflatten(2, (*weight.shape[2:], -1)).flatten(0, 1)
    return (
        lay_out(grad_input.to(input.dtype), input),
        grad_weight.permute(0, 3, 1, 2).to(weight.dtype, copy=True).contiguous(),
        grad_offsets.to(offsets.dtype),
        offsets.new_empty(0) if grad_data is None else grad_data.to(data_offsets.dtype),
    )


@_dense_forward.register_fake
def _(input, weight, offsets, *_):
    return empty_like(input, (input.shape[0], len(weight), *offsets.shape[2:]))


@_dense_backward.register_fake
def _(grad, input, weight, offsets, data_offsets, *_):
    return (
        empty_like(input, input.shape),
        weight.new_empty(weight.shape),
        offsets.new_empty(offsets.shape),
        offsets.new_empty(0 if data_offsets is None else offsets.shape),
    )


def _dense_context(ctx, inputs, output) -> None:
    *tensors, ctx.groups, kernel_size, stride, padding, dilation = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = kernel_size, stride, padding, dilation


_dense_gradients = once("dk_dense_backward")


def _dense_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, grad_data = _dense_gradients(grad, *ctx.saved_tensors, ctx.groups, *ctx.geometry)
    return *gradients, None if ctx.saved_tensors[3] is None else grad_data, *(None,) * 5


_dense = differentiable("dk_dense", _dense_gradient, _dense_context)


@register_flop_formula(torch.ops.mmlearnconv.dk_dense)
def _dense_flops(input, weight, offsets, *_, out_shape, **__) -> int:
    """Four cells a tap; then the product with the kernel space."""
    places = out_shape[0] * prod(out_shape[2:])
    return 4 * places * input[1] * offsets[1] + 2 * prod(out_shape) * prod(weight[1:])


def _computed(tensor: Tensor) -> Tensor:
    """In channels_last and the dtype of the sums."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(dtype, memory_format=torch.channels_last)


def _matrices(weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The kernel space as ``(groups, out / groups, scope cells * C / groups)``."""
    matrices = weight.to(torch.promote_types(dtype, torch.float32)).flatten(2)
    return matrices.transpose(1, 2).flatten(1).unflatten(0, (groups, -1)).contiguous()


def _column_tiles(input: Tensor, weight: Tensor, places: int) -> Iterator[tuple[int, int, Tensor]]:
    """Ranges of locations, and room for their columns, always the same."""
    cells = weight.shape[2:].numel()
    step = max(1, min(places, _TILE // max(1, cells * input.shape[1])))
    columns = input.new_empty(step, cells, input.shape[1])
    for begin in range(0, places, step):
        end = min(begin + step, places)
        yield begin, end, columns[: end - begin]
