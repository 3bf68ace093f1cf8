"""CondConv: convolution with a mixture of expert kernels."""

from collections.abc import Sequence

from torch import Tensor

from .dispatch import add_bias_and_format, check_devices
from .dynamic_kernel import conv2d_per_sample
from .geometry import geometry_of

__all__ = ["condconv2d"]


def condconv2d(
    input: Tensor,
    experts: Tensor,
    routing: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of each image with its own mixture of expert kernels (Yang et al. 2019).

    ``O_n = (sum_e r_ne W_e) * x_n``.

    Args:
        input: ``(N, C, H, W)``.
        experts: W, ``(E, out, C / groups, kH, kW)``.
        routing: r, ``(N, E)``.
        bias: ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices.
    """
    check_devices(input=input, experts=experts, routing=routing, bias=bias)
    geometry = geometry_of(stride, padding, dilation, groups)
    output = conv2d_per_sample(
        input, routing, lambda shares: mix_experts(shares, experts), experts[0].numel(), *geometry
    )
    return add_bias_and_format(output, bias, input)


def mix_experts(routing: Tensor, experts: Tensor) -> Tensor:
    """The mixture of experts for each image, ``(N, *shape)`` from ``(experts, *shape)``."""
    return (routing @ experts.flatten(1)).unflatten(1, experts.shape[1:])
