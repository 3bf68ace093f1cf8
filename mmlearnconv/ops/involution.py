"""Involution: one kernel per location and group, shared by the channels of the group."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserValueError
from .dispatch import accumulate_dtype, add_bias_and_format, check_devices, to_autocast_dtype
from .geometry import conv_output_size, geometry_of, tap_views

__all__ = ["involution2d"]


def involution2d(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """``O_k(x) = b_k + sum_u H_g(x, u) I_k(x + u)``, g the group of k (Li et al. 2021, Eq. 4).

    Computed tap by tap, so that the input is not copied once per tap.

    Args:
        input: ``(N, C, H, W)``.
        kernels: H, ``(N, groups, kH, kW, H', W')``; groups divide C.
        bias: ``(C,)`` or ``None``. Default: ``None``.
        stride, padding, dilation: as ``F.conv2d``, of the taps.

    Returns:
        Tensor: ``(N, C, H', W')``.

    Raises:
        ValueError: tensors on several devices, kernels of another size than the output, or groups
            that do not divide C.
    """
    check_devices(input=input, kernels=kernels, bias=bias)
    stride, padding, dilation, _ = geometry_of(stride, padding, dilation)
    groups, rows, columns = kernels.shape[1:4]
    height, width = conv_output_size(input.shape[2:], (rows, columns), stride, padding, dilation)
    if input.shape[1] % groups or (kernels.shape[0], *kernels.shape[4:]) != (
        input.shape[0],
        height,
        width,
    ):
        raise UserValueError(
            f"kernels: shape {tuple(kernels.shape)}; must be (N, groups, kH, kW, H', W') with "
            f"N={input.shape[0]}, groups that divide {input.shape[1]} channels and the output's "
            f"(H', W')={(height, width)}"
        )
    original, (input, kernels) = input, to_autocast_dtype(input, kernels)
    dtype = accumulate_dtype(input.dtype)
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    padded = padded.unflatten(1, (groups, -1)).to(dtype)
    output = padded.new_zeros(())
    patches = tap_views(padded, (rows, columns), stride, dilation, (height, width))
    for tap, patch in enumerate(patches):
        output = output + kernels[:, :, None, tap // columns, tap % columns] * patch
    return add_bias_and_format(output.flatten(1, 2).to(input.dtype), bias, original)
