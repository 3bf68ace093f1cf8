"""Convolutions with a different kernel for each image of a batch."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .autograd import define, differentiable, forbid_second_derivative
from .dispatch import to_autocast_dtype, without_autocast
from .geometry import conv_output_size, zero_unread_taps

# Elements that the kernels of one chunk of images may take: 64 MB in float32.
_CHUNK = 2**24


def conv2d_per_sample(
    input: Tensor,
    coefficients: Tensor,
    kernels: Callable[[Tensor], Tensor],
    kernel_numel: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve each image with its own kernel, a bounded number of kernels at a time.

    Args:
        input: ``(N, C, H, W)``.
        coefficients: ``(N, ...)``, from which the kernel of each image is built.
        kernels: function from the coefficients of ``n`` images to their kernels,
            ``(n, out, C / groups, kH, kW)``.
        kernel_numel: number of elements of one kernel.
        stride, padding, dilation, groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if len(input) == 0:
        # The sum over no kernels is a zero kernel of the right shape, connected to autograd.
        return F.conv2d(input, kernels(coefficients).sum(0), None, *geometry, groups)

    def convolve(images: Tensor, coefficients: Tensor) -> Tensor:
        built = zero_unread_taps(kernels(coefficients), images.shape[2:], *geometry)
        if torch.compiler.is_compiling():
            # Inductor (2.13) cannot lower a convolution with one group per image if the batch size
            # and the image size are symbolic.
            return _operator(*to_autocast_dtype(images, built), *geometry, groups)
        return _grouped(images, built, *geometry, groups)

    size = max(1, _CHUNK // kernel_numel)
    chunks = list(zip(input.split(size), coefficients.split(size), strict=True))
    if len(chunks) == 1:
        return convolve(*chunks[0])
    # Kernels are built again in the backward pass rather than kept.
    outputs = [checkpoint(convolve, *c, use_reentrant=False) for c in chunks]
    return torch.cat(outputs)


def _grouped(
    images: Tensor,
    kernels: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """One kernel per image, ``(n, out, C / groups, kH, kW)``, as groups of one convolution."""
    count = len(images)
    output = F.conv2d(
        images.reshape(1, -1, *images.shape[2:]),
        kernels.flatten(0, 1),
        None,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups * count,
    )
    return output.view(count, -1, *output.shape[2:])


_ARGUMENTS = (
    "Tensor images, Tensor kernels, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups"
)


def _fake(images, kernels, *geometry):
    size = conv_output_size(images.shape[2:], kernels.shape[3:], *geometry)
    return images.new_empty(images.shape[0], kernels.shape[1], *size)


@define("conv2d_per_sample", f"({_ARGUMENTS}) -> Tensor", _fake)
def _forward(images: Tensor, kernels: Tensor, *geometry: Sequence[int] | int) -> Tensor:
    with without_autocast(images):
        return _grouped(images, kernels, *geometry).contiguous()


@define(
    "conv2d_per_sample_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)",
    lambda grad, images, kernels, *_: (
        images.new_empty(images.shape),
        kernels.new_empty(kernels.shape),
    ),
)
def _backward(
    grad: Tensor,
    images: Tensor,
    kernels: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    one = (t.reshape(1, -1, *t.shape[2:]) for t in (grad, images))
    gradients = torch.ops.aten.convolution_backward(
        *(*one, kernels.flatten(0, 1), None, stride, padding, dilation, False, [0, 0]),
        *(groups * len(images), [True, True, False]),
    )
    return tuple(
        g.reshape(t.shape).contiguous() for g, t in zip(gradients, (images, kernels), strict=False)
    )


def _context(ctx, inputs, output) -> None:
    images, kernels, *ctx.geometry = inputs
    ctx.save_for_backward(images, kernels)


_gradients = forbid_second_derivative("conv2d_per_sample_backward")
_operator = differentiable(
    "conv2d_per_sample",
    lambda ctx, grad: (*_gradients(grad, *ctx.saved_tensors, *ctx.geometry), *(None,) * 4),
    _context,
)
