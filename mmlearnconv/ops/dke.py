"""Differentiable kernel evolution: kernels whose taps move over the input by gradient descent."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .depthwise import depthwise_conv2d


def dke_conv2d(
    input: Tensor,
    weight: Tensor,
    response: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    attention: Tensor | None = None,
) -> Tensor:
    """Convolution at learned real positions of every input channel.

    The definition, with the arguments' shapes, is :func:`mmlearnconv.ops.reference.dke_conv2d`.

    An interpolated im2col, one depthwise convolution a point, and one matrix product.
    """
    points = response.shape[1]
    values = []
    for point in range(points):
        value = depthwise_conv2d(
            input, response[:, point, None], None, tuple(stride), tuple(padding), tuple(dilation)
        )
        values.append(value if attention is None else value * attention[:, point, None])
    # (N, g, C / g * points) places: the 1x1 convolution is the matrix product.
    columns = torch.stack(values, 2).flatten(1, 2)
    return F.conv2d(columns, weight.flatten(1)[..., None, None], groups=groups)
