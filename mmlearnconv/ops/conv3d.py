"""Three-dimensional convolution on a CPU, without PyTorch's own."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import accumulate_dtype, is_cpu, to_autocast_dtype, without_autocast
from .geometry import conv_output_size

# F.conv2d, or what is faster for some kernels, called by position.
Conv2d = Callable[..., Tensor]


def use_slices(input: Tensor) -> bool:
    """Whether :func:`conv3d_by_slices` takes the place of ``F.conv3d``.

    PyTorch 2.13's ``F.conv3d`` (oneDNN) on an x86-64 CPU computes a wrong weight gradient in
    float32 for some small maps with large paddings, which windows that reach beyond the replaced
    kernel make common here. float64 does not go through oneDNN. Where no gradients are computed,
    traces and ONNX graphs among it, its output is right and faster.
    """
    exports = torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
    has_gradients = torch.is_grad_enabled() and not exports
    return is_cpu(input) and input.dtype != torch.float64 and has_gradients


def conv3d_by_slices(
    conv2d: Conv2d,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``F.conv3d`` as a sum of two-dimensional convolutions, one for each layer of the kernel.

    Half precision is summed in float32.

    Args:
        conv2d: ``F.conv2d``, or what stands for it.
        input: ``(N, C, D, H, W)``.
        weight: ``(out, C / groups, kD, kH, kW)``.
        bias: ``(out,)`` or ``None``.
        stride, padding, dilation: three integers each.
        groups: as ``F.conv3d``.

    Returns:
        Tensor: ``(N, out, D', H', W')``.
    """
    given = input
    input, weight, bias = to_autocast_dtype(input, weight, bias)
    dtype = input.dtype
    with without_autocast(input):
        input, weight = (t.to(accumulate_dtype(dtype)) for t in (input, weight))
        depth, *_ = conv_output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
        padded = F.pad(input, (0, 0, 0, 0, padding[0], padding[0]))
        output = torch.zeros((), dtype=input.dtype, device=input.device)
        for number in range(weight.shape[2]):
            first = number * dilation[0]
            layer = padded[:, :, first : first + (depth - 1) * stride[0] + 1 : stride[0]]
            maps = layer.transpose(1, 2).flatten(0, 1)
            if torch.compiler.is_dynamo_compiling():
                # Inductor 2.13 cannot lay out a convolution's input that is a view of unknown size.
                maps = maps * 1.0
            geometry = stride[1:], padding[1:], dilation[1:]
            output = output + conv2d(maps, weight[:, :, number], None, *geometry, groups)
        output = output.unflatten(0, (input.shape[0], depth)).transpose(1, 2)
        if bias is not None:
            output = output + bias.to(output.dtype)[:, None, None, None]
    last = not given.is_contiguous() and given.is_contiguous(memory_format=torch.channels_last_3d)
    memory_format = torch.channels_last_3d if last else torch.contiguous_format
    return output.to(dtype).contiguous(memory_format=memory_format)
