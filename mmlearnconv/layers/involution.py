"""Involution: one kernel per location, shared by groups of channels.

Li, Hu, Wang, Li, She, Zhu, Zhang, Chen: Involution: Inverting the Inherence of Convolution for
Visual Recognition. CVPR 2021. https://arxiv.org/abs/2103.06255
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.geometry import Geometry, under_middle, without_groups
from ..ops.involution import involution2d
from .arguments import positive_int
from .base import LearnableConv2d
from .sampling import values_at

__all__ = ["Involution2d"]

# Mean and mean square of the ReLU of a standard normal variable.
_MEAN, _SQUARE = 1 / math.sqrt(2 * math.pi), 0.5


class Involution2d(LearnableConv2d):
    r"""Kernels generated at every location from the input there, shared by groups of channels.

    :math:`O_k(x) = b_k + \sum_u H_{g(k)}(x, u)\, I_k(x + u)` (Eq. 4) with
    :math:`H(x) = W_1\, \sigma(W_0 I(x))` (Eq. 6), :math:`\sigma` a batch norm and a ReLU. With a
    stride s the kernel comes from the mean of the s x s inputs that begin at the window's centre.
    If input and output differ in channels, a 1x1 convolution maps the input first.

    Parameters: ``weight`` (kH kW channel groups, hidden), W_1; ``reduce_weight`` (hidden, in), W_0;
    ``norm_weight`` and ``norm_bias`` (hidden); ``map_weight`` (out, in / groups, 1, 1) where in and
    out differ. Buffers: ``norm_mean``, ``norm_var`` (hidden).

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``, but for ``groups``; the paper's networks use
            7x7 in place of 3x3.
        groups: groups of the 1x1 convolution, if there is one; the involution is per channel.
        group_channels: number of output channels that share a kernel; if it does not divide the
            output channels, all of them share one. Default: 16.
        reduction: ratio of input channels to hidden channels. Default: 4.

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
        group_channels: int = 16,
        reduction: int = 4,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.group_channels = positive_int("group_channels", group_channels)
        self.reduction = positive_int("reduction", reduction)
        shared = group_channels if out_channels % group_channels == 0 else out_channels
        self.channel_groups = out_channels // shared
        hidden = max(1, in_channels // reduction)
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.weight = nn.Parameter(torch.empty(taps * self.channel_groups, hidden))
        self.reduce_weight = nn.Parameter(torch.empty(hidden, in_channels))
        self.norm_weight = nn.Parameter(torch.empty(hidden))
        self.norm_bias = nn.Parameter(torch.empty(hidden))
        self.register_buffer("norm_mean", torch.zeros(hidden))
        self.register_buffer("norm_var", torch.ones(hidden))
        mapped = in_channels != out_channels
        shape = (out_channels, in_channels // groups, 1, 1)
        self.register_parameter("map_weight", nn.Parameter(torch.empty(shape)) if mapped else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that keep the input's scale approximately; the norm starts neutral."""
        nn.init.kaiming_uniform_(self.reduce_weight, a=math.sqrt(5))
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)
        nn.init.zeros_(self.norm_mean)
        nn.init.ones_(self.norm_var)
        if self.map_weight is not None:
            nn.init.normal_(self.map_weight, std=1 / math.sqrt(self.map_weight[0].numel()))
        if self.bias is not None:
            self.bias.data.copy_(self._equivalent_conv().bias.data)
        taps = self.kernel_size[0] * self.kernel_size[1]
        nn.init.normal_(self.weight)
        self._scale_kernels(1 / math.sqrt(taps))

    @torch.no_grad()
    def _scale_kernels(self, deviation: float) -> None:
        """Scale W_1 so that H has this root mean square behind a norm's ReLU."""
        w = self.weight.float()
        mean_square = (_SQUARE - _MEAN**2) * w.square().sum(1) + _MEAN**2 * w.sum(1).square()
        now = mean_square.mean().sqrt()
        if now > 0:
            self.weight.mul_((deviation / now).to(self.weight.dtype))

    def load_conv_weight_(self, weight: Tensor) -> float:
        """Always raises: an involution's kernel is the same for all channels of a group."""
        raise UserValueError(
            "a plain kernel has weights per channel, which involution shares: train it from scratch"
        )

    @torch.no_grad()
    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Take W_1 from the drawn kernel's elements, scaled to give outputs of the same scale."""
        drawn = weight.flatten()
        index = torch.arange(self.weight.numel(), device=drawn.device) % drawn.numel()
        self.weight.copy_(drawn[index].view_as(self.weight))
        fan_in = weight[0].numel()
        taps = self.kernel_size[0] * self.kernel_size[1]
        self._scale_kernels((drawn.float().square().mean() * fan_in / taps).sqrt().item())

    @property
    def macs_per_output(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """The involution, its generator, and the 1x1 convolution of the input."""
        locations = math.prod(output_size)
        generator = self.reduce_weight.numel() + self.weight.numel()
        parts = super().macs(output_size) | dict(generator=generator * locations)
        if self.map_weight is not None:
            strides = math.prod(self.stride)
            parts["convolution"] += self.map_weight.numel() * locations * strides
        return parts

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        padded, geometry = self._padded(input)
        kernels = self._kernels(padded, geometry)
        if self.map_weight is not None:
            padded = F.conv2d(padded, self.map_weight, groups=self.groups)
        return involution2d(padded, kernels, self.bias, *without_groups(geometry))

    def _kernels_at(self, locations: Tensor, input: Tensor) -> Tensor:
        kernels = values_at(locations, self._kernels(*self._padded(input))[0])
        return kernels.repeat_interleave(self.out_channels // self.channel_groups, 1)[:, :, None]

    def _kernels(self, padded: Tensor, geometry: Geometry) -> Tensor:
        """H, ``(N, channel groups, kH, kW, H', W')``."""
        stride, padding, dilation, _ = geometry
        rest = [s - 1 for s in stride]
        middle = under_middle(padded, self.kernel_size, padding, dilation, rest)
        if max(stride) > 1:
            middle = F.avg_pool2d(middle, stride)
        hidden = F.conv2d(middle, self.reduce_weight[..., None, None])
        training = self.training
        if hidden[:, 0].numel() == 1:
            # A single location, of a single image, has no statistics.
            training = False
        statistics = self.norm_mean, self.norm_var
        affine = self.norm_weight, self.norm_bias
        hidden = F.batch_norm(hidden, *statistics, *affine, training).relu()
        kernels = F.conv2d(hidden, self.weight[..., None, None])
        return kernels.unflatten(1, (self.channel_groups, *self.kernel_size))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, group_channels={self.group_channels}, "
            f"reduction={self.reduction}"
        )
