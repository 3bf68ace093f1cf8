"""The definition of CondConv."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["condconv2d"]


def condconv2d(
    input: Tensor,
    experts: Tensor,
    routing: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of each image with its own mixture of expert kernels (Yang et al. 2019).

    Args:
        input: ``(N, C, H, W)``.
        experts: ``(E, out, C / groups, kH, kW)``.
        routing: ``(N, E)``.
        bias: ``(out,)`` or ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    images = [
        F.conv2d(
            image[None],
            torch.einsum("e,eocuv->ocuv", shares, experts),
            bias,
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            groups,
        )
        for image, shares in zip(input, routing, strict=True)
    ]
    return torch.cat(images)
