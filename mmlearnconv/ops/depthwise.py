"""Depthwise convolution with large kernels, dilated ones, and ones of few taps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .autocast import to_autocast_dtype
from .extension import depthwise_input_grad, has_kernels, is_compiled, operator
from .layout import lay_out
from .nan import nan_if_any

# PyTorch's planar depthwise kernels on the CPU end at 14 columns; wider ones fall to a path 10 to
# 30 times slower, while the channels_last kernels keep their pace.
_WIDE = 15
# From here on PyTorch's weight gradient takes several times the forward pass.
_LARGE = 5
# From here on the FFT beats PyTorch's weight gradient in either memory format; the compiled one
# beats both.
_FFT = 11


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """``F.conv2d(..., groups=channels)``, made fast on the CPU where PyTorch is slow.

    On the CPU, in float32 and bfloat16, kernels of 15 cells and more run in channels_last whatever
    the input's format. Those of 5 cells and more get their weight gradient from a compiled
    operation, and with unit stride their input gradient from a forward convolution with the flipped
    kernel; dilated kernels run as lists of taps. Where nothing is compiled, the gradients of
    undilated kernels of unit stride and 11 cells and more are made fast with an FFT. All else is
    left to PyTorch. The output has the input's memory format.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(C, 1, kH, kW)``.
        bias: ``(C,)`` or ``None``.
        stride: rows and columns.
        padding: rows and columns, of zeros.
        dilation: rows and columns.

    Returns:
        Tensor: ``(N, C, H', W')``.
    """
    input, weight, bias = to_autocast_dtype(input, weight, bias)
    size = weight.shape[2:]
    large = max(size) >= (_LARGE if is_compiled() else _FFT)
    dilated = any(d > 1 and k > 1 for d, k in zip(dilation, size, strict=True))
    if (
        not (large or (dilated and is_compiled()))
        or not _is_ours(input)
        or input.dtype != weight.dtype
        or input.numel() == 0
    ):
        return F.conv2d(input, weight, bias, stride, padding, dilation, weight.shape[0])
    if dilated and is_compiled():
        cells = torch.cartesian_prod(*(torch.arange(k) for k in size)).expand(len(weight), 1, -1, 2)
        values = weight.flatten(2)
        return depthwise_taps(input, values, cells, bias, size, stride, padding, dilation)
    map_ = input.contiguous(memory_format=torch.channels_last) if max(size) >= _WIDE else input
    geometry = (tuple(stride), tuple(padding), tuple(dilation))
    if is_compiled() or _is_plain(size, *geometry):
        output = _DepthwiseConv2d.apply(map_, weight, bias, *geometry)
    else:
        output = F.conv2d(map_, weight, bias, *geometry, weight.shape[0])
    return lay_out(output, input)


def depthwise_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """Depthwise convolution whose kernel is a list of taps; what it costs goes with their number.

    The definition, with the arguments' shapes, is
    :func:`mmlearnconv.ops.reference.depthwise_taps`; taps outside the window are for the caller to
    leave out. A value that is not a number makes all outputs of its kernel NaN. The output has the
    input's memory format.
    """
    (input,) = to_autocast_dtype(input)
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if not has_kernels(input):
        values = values.to(input.dtype)
        kernels = reference.dense_taps(values, cells, size)
        # A plain depthwise convolution for each of a channel's outputs has fast paths.
        outputs = [depthwise_conv2d(input, k[:, None], None, *geometry) for k in kernels.unbind(1)]
        output = torch.stack(outputs, 2).flatten(1, 2)
        output = output + nan_if_any(values, 2).flatten()[:, None, None]
        if bias is not None:
            output = output + bias.to(output.dtype)[:, None, None]
        return lay_out(output, input)
    output_size = reference.conv_output_size(input.shape[2:], size, *geometry)
    return operator("depthwise_taps")(input, values, cells, bias, output_size, *geometry)


def _is_ours(input: Tensor) -> bool:
    # A trace, by which complexity is counted, does not see into a custom Function.
    fast = input.device.type == "cpu" and input.dtype in (torch.float32, torch.bfloat16)
    return fast and not torch.jit.is_tracing()


def _is_plain(
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> bool:
    """Unit stride, undilated, and no output that sees padding alone."""
    within = all(p < k for p, k in zip(padding, size, strict=True))
    return stride == dilation == (1, 1) and within


class _DepthwiseConv2d(torch.autograd.Function):
    """Depthwise convolution with a backward pass of its own."""

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
                grad_input = depthwise_input_grad(grad, input, weight, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            if is_compiled():
                dtype = torch.promote_types(input.dtype, torch.float32)
                grad_weight = operator("depthwise_weight_grad")(
                    input.to(dtype), grad.to(dtype), size, stride, padding, dilation
                ).to(weight.dtype)
            else:
                grad_weight = correlate(input, grad, size, padding)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_input, grad_weight, grad_bias, None, None, None


def correlate(
    input: Tensor, grad: Tensor, size: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Weight gradient of a unit-stride depthwise convolution, by the correlation theorem.

    ``out[c, 0, u, v] = sum_nij input[n, c, i + u - p_y, j + v - p_x] * grad[n, c, i, j]``.
    """
    dtype = torch.promote_types(input.dtype, torch.float32)
    # Long enough that no lag of the kernel wraps around onto data, and to hold them all.
    lengths = [
        _fast_length(max(max(n, m) + max(p, k - 1 - p), k))
        for n, m, k, p in zip(input.shape[2:], grad.shape[2:], size, padding, strict=True)
    ]
    spectrum = torch.fft.rfft2(input.to(dtype), s=lengths)
    spectrum = (spectrum * torch.fft.rfft2(grad.to(dtype), s=lengths).conj()).sum(0)
    lags = torch.fft.irfft2(spectrum, s=lengths)
    lags = lags.roll(padding, (1, 2))[:, None, : size[0], : size[1]]
    return lags.to(input.dtype).contiguous()


def _fast_length(n: int) -> int:
    """Smallest number from ``n`` on with no prime factor above 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
