"""Convolutions whose kernel differs by image."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that the kernels of one chunk of images may take: 64 MB in float32.
_CHUNK = 2**24


def conv2d_per_image(
    input: Tensor,
    coefficients: Tensor,
    kernels: Callable[[Tensor], Tensor],
    kernel_numel: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve each image with a kernel of its own, a bounded number of kernels at a time.

    Args:
        input: ``(N, C, H, W)``.
        coefficients: ``(N, ...)``, what each image's kernel is made from.
        kernels: makes ``(n, out, C / groups, kH, kW)`` from ``n`` images' coefficients.
        kernel_numel: numbers in one kernel.
        stride, padding, dilation, groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if len(input) == 0:
        # A sum over no images: zero, of the right shape, and known to autograd.
        return F.conv2d(input, kernels(coefficients).sum(0), None, *geometry, groups)

    def convolve(images: Tensor, coefficients: Tensor) -> Tensor:
        built = kernels(coefficients)
        output = F.conv2d(
            images.reshape(1, -1, *images.shape[2:]),
            built.flatten(0, 1),
            None,
            *geometry,
            groups * len(images),
        )
        return output.view(len(images), -1, *output.shape[2:])

    size = max(1, _CHUNK // kernel_numel)
    chunks = list(zip(input.split(size), coefficients.split(size), strict=True))
    if len(chunks) == 1:
        return convolve(*chunks[0])
    # Kernels are built again in the backward pass rather than kept.
    outputs = [checkpoint(convolve, *c, use_reentrant=False) for c in chunks]
    return torch.cat(outputs)


def condconv2d(
    input: Tensor,
    experts: Tensor,
    routing: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of each image with its own mixture of expert kernels.

    The definition, with the arguments' shapes, is :func:`mmlearnconv.ops.reference.condconv2d`.
    """

    def mixtures(routing: Tensor) -> Tensor:
        return (routing @ experts.flatten(1)).unflatten(1, experts.shape[1:])

    return conv2d_per_image(
        input, routing, mixtures, experts[0].numel(), stride, padding, dilation, groups
    )
