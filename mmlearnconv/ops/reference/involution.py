"""The definition of involution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import im2col

__all__ = ["involution2d"]


def involution2d(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """``O_k(x) = b_k + sum_u H_g(x, u) I_k(x + u)``, g the group of k (Li et al. 2021, Eq. 4).

    Args:
        input: ``(N, C, H, W)``.
        kernels: H, ``(N, groups, kH, kW, H', W')``.
        bias: ``(C,)`` or ``None``.
        stride, padding, dilation: rows and columns each.

    Returns:
        Tensor: ``(N, C, H', W')``.
    """
    columns = im2col(input, kernels.shape[2:4], stride, padding, dilation)
    columns = columns.unflatten(1, (kernels.shape[1], -1))
    output = torch.einsum("ngckhw,ngkhw->ngchw", columns, kernels.flatten(2, 3)).flatten(1, 2)
    return output if bias is None else output + bias[:, None, None]
