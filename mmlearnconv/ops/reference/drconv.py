"""The definition of DRConv."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import im2col

__all__ = ["drconv2d", "drconv2d_factorised"]


def drconv2d(
    input: Tensor,
    guide: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    base: Tensor | None = None,
) -> Tensor:
    """Convolution with the filter of each location's region (Chen et al. 2021, Eq. 3-8).

    In the forward pass, location x uses filter ``argmax_t F_t(x)``. In the backward pass,
    ``softmax(F)`` replaces the one-hot mask: its gradient is
    ``<dL/dO(x), response of filter t at x>``. At locations where the guide's largest value is
    not finite, the output is NaN.

    Args:
        input: ``(N, C, H, W)``.
        guide: ``F``, ``(N, regions, H', W')``.
        filters: ``(N, regions, out, C / groups, kH, kW)``.
        bias: ``(out,)`` or ``None``.
        stride, padding, dilation: rows and columns each.
        groups: as ``F.conv2d``.
        base: ``(out, C / groups, kH, kW)``, added to all filters.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    if base is not None:
        filters = filters + base
    columns = im2col(input, filters.shape[4:], stride, padding, dilation).unflatten(1, (groups, -1))
    filters = filters.flatten(4).unflatten(2, (groups, -1))
    responses = torch.einsum("ngckhw,ntgock->ntgohw", columns, filters).flatten(2, 3)
    soft = guide.softmax(1)
    hard = F.one_hot(guide.argmax(1), guide.shape[1]).movedim(-1, 1).to(soft.dtype)
    mask = hard + soft - soft.detach()
    output = (mask[:, :, None] * responses).sum(1)
    return output if bias is None else output + bias[:, None, None]


def drconv2d_factorised(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    *arguments: Any,
    base: Tensor | None = None,
) -> Tensor:
    """:func:`drconv2d` with the filters ``filter_scale_t * pattern_nt + filter_bias_t``.

    Args:
        input, guide: as :func:`drconv2d`.
        pattern: ``(N, regions, kH, kW)``.
        filter_scale, filter_bias: ``(regions, out, C / groups)``.
        *arguments: bias, stride, padding, dilation and groups.
        base: as :func:`drconv2d`.
    """
    filters = filter_scale[..., None, None] * pattern[:, :, None, None]
    filters = filters + filter_bias[..., None, None]
    return drconv2d(input, guide, filters, *arguments, base=base)
