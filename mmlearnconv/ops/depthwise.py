"""Depthwise convolution with large kernels, dilated ones, and ones of few taps."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import differentiable, forbid_second_derivative
from .conv3d import conv3d_by_slices, use_slices
from .correlation import correlate
from .dispatch import (
    accumulate_dtype,
    add_bias_and_format,
    check_devices,
    empty_like,
    is_cpu,
    match_memory_format,
    to_autocast_dtype,
    use_compiled,
)
from .extension import compiled, has_extension, has_kernels_for
from .geometry import conv_output_size, each_axis, geometry_of, zero_unread_taps
from .interpolation import nan_if_any

__all__ = ["depthwise_conv2d", "depthwise_taps"]

# Side lengths of a kernel. PyTorch's NCHW depthwise kernels on the CPU handle up to 14 columns;
# wider ones take a path that is 10 to 30 times slower. The channels_last kernels do not slow down.
_WIDE = 15
# From this length on, PyTorch's weight gradient takes several times as long as the forward pass.
_LARGE = 5
# The longest that the CUDA kernels take.
_LARGEST = 31
# From this length on, the FFT is faster than PyTorch's weight gradient in either memory format. The
# compiled weight gradient is faster than both.
_FFT = 11


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``F.conv1d``, ``F.conv2d`` or ``F.conv3d``, chosen by the number of the weight's dimensions.

    2D depthwise convolutions go to :func:`depthwise_conv2d`, 3D ones on a CPU to
    :func:`~mmlearnconv.ops.conv3d.conv3d_by_slices`.

    Args:
        input: ``(N, C, ...)``.
        weight: ``(out, C / groups, ...)``.
        bias: ``(out,)`` or ``None``.
        stride, padding, dilation: one integer per axis.
        groups: as ``F.conv2d``.
    """
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if weight.ndim == 4 and groups == input.shape[1] == len(weight):
        return depthwise_conv2d(input, weight, bias, *geometry)
    if weight.ndim == 5 and use_slices(input):
        return conv3d_by_slices(convolve, input, weight, bias, *geometry, groups)
    weight = zero_unread_taps(weight, input.shape[2:], *geometry)
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
    if weight.is_contiguous():
        # Of one cell, it may have the strides of channels_last as well, and the output gets them.
        weight = weight.reshape(-1).view(weight.shape)
    return function(input, weight, bias, *geometry, groups)


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """``F.conv2d(..., groups=channels)``, with faster paths where PyTorch is slow.

    On CUDA, undilated kernels whose longer side has 5 to 31 cells have compiled operations in
    float32, float16 and bfloat16, at stride 1 and 2; they sum in float32. On the CPU the paths are
    for float32 and bfloat16. With ``k`` the longer side of the kernel:

    - k >= 15: the convolution runs in channels_last, whatever the input's memory format;
    - k >= 5, undilated: a compiled operation computes the weight gradient, and at unit stride a
      forward convolution with the flipped kernel computes the input gradient;
    - dilated, any k: the kernel runs as lists of taps in a compiled operation;
    - k >= 11, undilated, at unit stride, without the compiled operations: the weight gradient comes
      from an FFT, the input gradient from the flipped kernel.

    Everything else is left to PyTorch. On these paths the output has the input's memory format.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(C, 1, kH, kW)``.
        bias: ``(C,)`` or ``None``. Default: ``None``.
        stride, padding, dilation: as ``F.conv2d``, one integer or (rows, columns).

    Returns:
        Tensor: ``(N, C, H', W')``.

    Raises:
        ValueError: tensors on several devices.
    """
    check_devices(input=input, weight=weight, bias=bias)
    input, weight, bias = to_autocast_dtype(input, weight, bias)
    *geometry, groups = geometry_of(stride, padding, dilation, len(weight))
    weight = zero_unread_taps(weight, input.shape[2:], *geometry)
    size = weight.shape[2:]
    if _has_kernels(input, weight, geometry[0], geometry[2]):
        output_size = conv_output_size(input.shape[2:], size, *geometry)
        return _forward(input, weight, bias, output_size, *geometry[:2])
    large = max(size) >= (_LARGE if has_extension() else _FFT)
    dilated = any(d > 1 and k > 1 for d, k in zip(geometry[2], size, strict=True))
    if (
        not (large or (dilated and has_extension()))
        or not _is_fast_here(input)
        or input.dtype != weight.dtype
        or input.numel() == 0
    ):
        return F.conv2d(input, weight, bias, *geometry, groups)
    if dilated and has_extension():
        cells = torch.cartesian_prod(*(torch.arange(k) for k in size)).expand(groups, 1, -1, 2)
        return depthwise_taps(input, weight.flatten(2), cells, size, bias, *geometry)
    map_ = input.contiguous(memory_format=torch.channels_last) if max(size) >= _WIDE else input
    if has_extension() or _is_plain(size, *geometry):
        output = DepthwiseFunction.apply(map_, weight, bias, *geometry)
    else:
        output = F.conv2d(map_, weight, bias, *geometry, groups)
    return match_memory_format(output, input)


def depthwise_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    window: Sequence[int],
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Depthwise convolution whose kernels are lists of taps on the cells of a window.

    ``O_cm(x) = b_cm + sum_t values[c, m, t] I_c(x + cells[c, m, t])``; the cost scales with the
    number of taps, not with the window. Taps on the same cell are added. A NaN value makes all
    outputs of its kernel NaN. The output has the input's memory format.

    Args:
        input: ``(N, C, H, W)``.
        values: ``(C, multiplier, taps)``.
        cells: ``(C, multiplier, taps, 2)``, int64, row and column relative to the window's first
            cell. They must lie in the window; this is not checked.
        window: its rows and columns.
        bias: ``(C * multiplier,)`` or ``None``. Default: ``None``.
        stride, padding, dilation: as ``F.conv2d``, of the window.

    Returns:
        Tensor: ``(N, C * multiplier, H', W')``.

    Raises:
        ValueError: tensors on several devices.
    """
    check_devices(input=input, values=values, cells=cells, bias=bias)
    (input,) = to_autocast_dtype(input)
    geometry = tuple(each_axis(value) for value in (stride, padding, dilation))
    if use_compiled(input):
        output_size = conv_output_size(input.shape[2:], window, *geometry)
        return _taps(input, values, cells, bias, output_size, *geometry)
    values = values.to(input.dtype)
    # A plain depthwise convolution for each of a channel's outputs has fast paths.
    outputs = [
        depthwise_conv2d(input, kernel[:, None], None, *geometry)
        for kernel in taps_to_kernels(values, cells, window).unbind(1)
    ]
    output = torch.stack(outputs, 2).flatten(1, 2)
    output = output + nan_if_any(values, 2).flatten()[:, None, None]
    return add_bias_and_format(output, bias, input)


def taps_to_kernels(values: Tensor, cells: Tensor, window: Sequence[int]) -> Tensor:
    """The dense kernels of lists of taps, ``(C, multiplier, rows, columns)``.

    Args:
        values, cells, window: as :func:`depthwise_taps`; taps outside count for nothing.
    """
    rows, columns = cells.unbind(3)
    inside = (rows >= 0) & (rows < window[0]) & (columns >= 0) & (columns < window[1])
    index = torch.where(inside, rows * window[1] + columns, 0)
    kernels = values.new_zeros(*values.shape[:2], window[0] * window[1])
    kernels = kernels.scatter_add(2, index, torch.where(inside, values, 0))
    return kernels.unflatten(2, tuple(window))


def _has_kernels(
    input: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> bool:
    """Whether compiled operations run this convolution, gradients included: on CUDA."""
    return (
        _LARGE <= max(weight.shape[2:]) <= _LARGEST
        and stride in ((1, 1), (2, 2))
        and dilation == (1, 1)
        and input.dtype == weight.dtype
        and input.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and input.numel() > 0
        and has_kernels_for(input.device.type, "depthwise_forward")
        and not torch.jit.is_tracing()
    )


def _is_fast_here(input: Tensor) -> bool:
    # A trace, by which complexity is counted, does not see into a custom Function.
    known = input.dtype in (torch.float32, torch.bfloat16)
    return known and is_cpu(input) and not torch.jit.is_tracing()


def _is_plain(
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> bool:
    """Whether stride and dilation are 1 and no output location reads padding only."""
    within = all(p < k for p, k in zip(padding, size, strict=True))
    return stride == dilation == (1, 1) and within


class DepthwiseFunction(torch.autograd.Function):
    """Depthwise convolution with a custom backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        return F.conv2d(input, weight, bias, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, weight, _, *ctx.geometry = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        size = weight.shape[2:]
        stride, padding, dilation = ctx.geometry
        if max(size) >= _WIDE:
            grad = grad.contiguous(memory_format=torch.channels_last)
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            if _is_plain(size, *ctx.geometry):
                flipped = [k - 1 - p for k, p in zip(size, padding, strict=True)]
                grad_input = F.conv2d(grad, weight.flip(2, 3), None, 1, flipped, 1, len(weight))
            else:
                grad_input = _input_grad(grad, input, weight, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            if has_extension():
                dtype = accumulate_dtype(input.dtype)
                arguments = input.to(dtype), grad.to(dtype), size, stride, padding, dilation
                grad_weight = _weight_grad(*arguments).to(weight.dtype)
            else:
                grad_weight = correlate(input, grad, size, padding)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_input, grad_weight, grad_bias, None, None, None


def _input_grad(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """PyTorch's input gradient of a depthwise convolution, of any geometry."""
    return torch.ops.aten.convolution_backward(
        *(grad, input, weight, None, stride, padding, dilation, False, [0, 0], input.shape[1]),
        [True, False, False],
    )[0]


# The compiled operators.


def _forward_context(ctx, inputs, output) -> None:
    input, weight, bias, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _forward_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    grad_input = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_input = _own_input_grad(grad, weight, input.shape[2:], *ctx.geometry)
    if ctx.needs_input_grad[1]:
        grad_weight = _weight_grad(input, grad, weight.shape[2:], *ctx.geometry, (1, 1))
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=ctx.bias_dtype)
    return grad_input, grad_weight, grad_bias, None, None, None


def _input_grad_context(ctx, inputs, output) -> None:
    grad, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(grad, weight)


def _input_grad_backward(ctx, input: Tensor) -> tuple[Tensor | None, ...]:
    """It is linear in the gradient and in the weight; ``input`` stands where the input would."""
    grad, weight = ctx.saved_tensors
    grad_grad = _forward(input, weight, None, grad.shape[2:], *ctx.geometry)
    grad_weight = _weight_grad(input, grad, weight.shape[2:], *ctx.geometry, (1, 1))
    return grad_grad, grad_weight, None, None, None


def _weight_grad_context(ctx, inputs, output) -> None:
    input, grad, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, grad)


def _weight_grad_backward(ctx, weight: Tensor) -> tuple[Tensor | None, ...]:
    """The weight gradient is bilinear; ``weight``, its gradient, takes the kernel's place."""
    input, grad = ctx.saved_tensors
    grad_input = _input_grad(grad, input, weight, *ctx.geometry)
    grad_grad = F.conv2d(input, weight, None, *ctx.geometry, input.shape[1])
    return grad_input, grad_grad, None, None, None, None


def _fake_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    bias: Tensor | None,
    output_size: Sequence[int],
    *_: Sequence[int],
) -> Tensor:
    return empty_like(input, (input.shape[0], values.shape[0] * values.shape[1], *output_size))


def _fake_taps_gradients(
    grad: Tensor, input: Tensor, values: Tensor, cells: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    *_, needs_input, needs_values = rest
    grad_input = empty_like(input, input.shape) if needs_input else input.new_empty(0)
    return grad_input, values.new_empty(values.shape if needs_values else 0)


def _taps_context(ctx, inputs, output) -> None:
    input, values, cells, bias, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, values, cells)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _taps_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs_input, needs_values = ctx.needs_input_grad[:2]
    grad_input, grad_values = _taps_gradients(
        grad, *ctx.saved_tensors, *ctx.geometry, needs_input, needs_values
    )
    return (
        grad_input if needs_input else None,
        grad_values if needs_values else None,
        None,
        grad.sum((0, 2, 3), dtype=ctx.bias_dtype) if ctx.needs_input_grad[3] else None,
        *(None,) * 4,
    )


_forward = compiled(
    "depthwise_forward",
    lambda input, _, __, size, *___: empty_like(input, (*input.shape[:2], *size)),
    lambda name: differentiable(name, _forward_backward, _forward_context),
    lambda _, weight, *rest, out_shape, **__: 2 * prod(out_shape) * prod(weight[2:]),
)
_own_input_grad = compiled(
    "depthwise_input_grad",
    lambda grad, weight, input_size, *_: empty_like(grad, (*grad.shape[:2], *input_size)),
    lambda name: differentiable(name, _input_grad_backward, _input_grad_context),
    lambda grad, weight, *rest, **__: 2 * prod(grad) * prod(weight[2:]),
)
_weight_grad = compiled(
    "depthwise_weight_grad",
    lambda input, grad, size, *_: input.new_empty(input.shape[1], 1, *size),
    lambda name: differentiable(name, _weight_grad_backward, _weight_grad_context),
)
_taps_gradients = compiled(
    "depthwise_taps_backward", _fake_taps_gradients, forbid_second_derivative
)
_taps = compiled(
    "depthwise_taps",
    _fake_taps,
    lambda name: differentiable(name, _taps_backward, _taps_context),
    lambda _, values, *rest, out_shape, **__: 2 * prod(out_shape) * values[2],
)
