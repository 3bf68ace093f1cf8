"""CondConv: conditionally parameterised convolution, a baseline of several papers.

Yang, Bender, Le, Ngiam: CondConv: Conditionally Parameterized Convolutions for Efficient Inference.
NeurIPS 2019. https://arxiv.org/abs/1904.04971
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.condconv import condconv2d, mix_experts
from .arguments import positive_int
from .base import LearnableConv2d, relative_error

__all__ = ["CondConv2d"]


def route(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Weight of each expert per image, :math:`\sigma(R\,\mathrm{GAP}(x))`, ``(N, experts)``."""
    return F.linear(input.mean((2, 3)), weight, bias).sigmoid()


def split_into_experts(weight: Tensor, experts: int) -> Tensor:
    """Experts whose mixture, at 0.5 each, is ``weight``; they differ so that they can diverge."""
    # Weights of 0.5 sum to experts / 2; the differences have mean zero and cancel.
    difference = torch.randn(experts, *weight.shape, dtype=weight.dtype, device=weight.device)
    difference = (difference - difference.mean(0)) * weight.std(correction=0) * 0.1
    return (weight + difference) * (2 / experts)


class CondConv2d(LearnableConv2d):
    r"""Convolution whose kernel is a mixture of experts, weighted for each image.

    :math:`O = (\sum_e r_e W_e) * x,\; r = \sigma(R\,\mathrm{GAP}(x))`.

    Parameters: ``weight`` (experts, out, in / groups, kH, kW), ``routing_weight`` (experts, in) and
    ``routing_bias`` (experts), which start at zero: every expert has weight 0.5.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``.
        num_experts: kernels to mix. Default: 8.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside what is allowed.
    """

    is_static = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        num_experts: int = 8,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.num_experts = positive_int("num_experts", num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, *self.conv_weight_shape))
        self.routing_weight = nn.Parameter(torch.empty(num_experts, in_channels))
        self.routing_bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every expert as ``nn.Conv2d`` does."""
        for expert in self.weight.data:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        if self.bias is not None:
            self.bias.data.copy_(self._equivalent_conv().bias.data)
        nn.init.zeros_(self.routing_weight)
        nn.init.zeros_(self.routing_bias)

    @torch.no_grad()
    def load_conv_weight_(self, weight: Tensor) -> float:
        """Exact: every image's mixture is the plain kernel at the start."""
        self.weight.copy_(split_into_experts(weight, self.num_experts))
        self.routing_weight.zero_()
        self.routing_bias.zero_()
        return relative_error(self.weight.mean(0) * self.num_experts / 2, weight)

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """Adds the experts' weights and the weighted sum of the experts, as ``'generator'``."""
        parts = super().macs(output_size)
        return parts | dict(generator=self.routing_weight.numel() + self.weight.numel())

    def _kernels_at(self, locations: Tensor, input: Tensor) -> Tensor:
        return mix_experts(route(input, self.routing_weight, self.routing_bias), self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        padded, geometry = self._padded(input)
        routing = route(input, self.routing_weight, self.routing_bias)
        return condconv2d(padded, self.weight, routing, self.bias, *geometry)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_experts={self.num_experts}"
