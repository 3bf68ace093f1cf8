"""The definition of depthwise convolution by lists of taps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import conv_output_size

__all__ = ["depthwise_taps"]


def depthwise_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    window: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Depthwise convolution whose kernels are lists of taps on the cells of a window.

    ``O_cm(x) = b_cm + sum_t values[c, m, t] I_c(x + cells[c, m, t])``: taps on the same cell are
    added. A NaN value makes all outputs of its kernel NaN.

    Args:
        input: ``(N, C, H, W)``.
        values: ``(C, multiplier, taps)``.
        cells: ``(C, multiplier, taps, 2)``, row and column from the window's first cell.
        window: its rows and columns.
        bias: ``(C * multiplier,)`` or ``None``.
        stride, padding, dilation: rows and columns each.

    Returns:
        Tensor: ``(N, C * multiplier, H', W')``.
    """
    height, width = conv_output_size(input.shape[2:], window, stride, padding, dilation)
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    maps = []
    for channel in range(values.shape[0]):
        for value, cell in zip(values[channel], cells[channel].tolist(), strict=True):
            output = padded.new_zeros(len(input), height, width)
            for share, (u, v) in zip(value, cell, strict=True):
                rows = torch.arange(height, device=input.device) * stride[0] + u * dilation[0]
                columns = torch.arange(width, device=input.device) * stride[1] + v * dilation[1]
                output = output + share * padded[:, channel][:, rows[:, None], columns]
            maps.append(output)
    output = torch.stack(maps, 1)
    return output if bias is None else output + bias[:, None, None]
