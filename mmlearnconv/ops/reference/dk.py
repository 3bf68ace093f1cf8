"""The definition of deformable kernels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import conv_output_size
from ..interpolation import linear_coefficients, sample

__all__ = ["dk_conv2d"]


def dk_conv2d(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    data_offsets: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel is resampled from a larger kernel space, one tap after the other.

    ``O_j = sum_k I[j + k + g_jk] W(k + delta_jk)`` with ``W(.)`` bilinear in the kernel space
    (Gao et al. 2020, Eq. 7; with data offsets ``g``, Eq. 11).

    Args:
        input: ``(N, C, H, W)``.
        weight: the kernel space, ``(out, C / groups, scope rows, scope columns)``.
        offsets: ``delta``, ``(N, 2 * kH * kW, H', W')``, or with one row and column for all
            locations.
        kernel_size, stride, padding, dilation: rows and columns each.
        bias: ``(out,)`` or ``None``.
        groups: as ``F.conv2d``.
        data_offsets: ``g``, ``(N, 2 * kH * kW, H', W')``, in pixels.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    height, width = conv_output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    scope = weight.shape[2:]
    rows = torch.arange(height, device=input.device, dtype=input.dtype) * stride[0] - padding[0]
    columns = torch.arange(width, device=input.device, dtype=input.dtype) * stride[1] - padding[1]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    output = input.new_zeros(())
    for tap in range(kernel_size[0] * kernel_size[1]):
        u, v = divmod(tap, kernel_size[1])
        y = u + (scope[0] - kernel_size[0]) / 2 + offsets[:, 2 * tap]
        x = v + (scope[1] - kernel_size[1]) / 2 + offsets[:, 2 * tap + 1]
        share_y, share_x = linear_coefficients(y, scope[0]), linear_coefficients(x, scope[1])
        kernel = torch.einsum("ocyx,nhwy,nhwx->nochw", weight, share_y, share_x)
        if data_offsets is None:
            top, left = u * dilation[0], v * dilation[1]
            patch = padded[:, :, top:, left:][:, :, :: stride[0], :: stride[1]]
            patch = patch[:, :, :height, :width]
        else:
            moved_y = (rows + u * dilation[0])[:, None] + data_offsets[:, 2 * tap]
            moved_x = columns + v * dilation[1] + data_offsets[:, 2 * tap + 1]
            patch = sample(input, moved_y, moved_x)
        patch, kernel = patch.unflatten(1, (groups, -1)), kernel.unflatten(1, (groups, -1))
        output = output + (patch[:, :, None] * kernel).sum(3)
    output = output.flatten(1, 2)
    return output if bias is None else output + bias[:, None, None]
