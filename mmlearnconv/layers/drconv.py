"""DRConv: dynamic region-aware convolution.

Chen, Wang, Guo, Zhang, Sun: Dynamic Region-Aware Convolution. CVPR 2021.
https://arxiv.org/abs/2003.12243
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.depthwise import convolve
from ..ops.drconv import drconv2d, drconv2d_factorised
from ..ops.geometry import Geometry, without_groups
from ..ops.pooling import adaptive_avg_pool2d
from .arguments import positive_int
from .base import LearnableConv2d, relative_error
from .sampling import cells_at, values_at

__all__ = ["DRConv2d"]


class DRConv2d(LearnableConv2d):
    r"""Convolution in which a guide picks one of m generated filters for every output location.

    :math:`O(x) = W_{M(x)} * x,\; M(x) = \mathrm{argmax}_t F_t(x)` (Eq. 3-5), the guide F a
    convolution of the layer's own geometry; in the backward pass :math:`\mathrm{softmax}(F)`
    replaces the one-hot mask (Eq. 6-8). Each image's filters come from adaptive average pooling to
    the kernel's size, a 1x1 convolution to ``hidden_channels``, a sigmoid, and a 1x1 convolution
    in m groups. With m hidden channels filter t is :math:`s_t[o, c]\, \sigma_t(u, v) + b_t[o, c]`,
    with s (``filter_scale``) and b (``filter_bias``) the same for all images, and is never built.

    Parameters: ``weight`` (out, in / groups, kH, kW), the base filter that all regions share;
    ``guide_weight`` (m, in, kH, kW), ``guide_bias`` (m); ``hidden_weight`` (hidden, in),
    ``hidden_bias`` (hidden); ``filter_scale`` (m, out, in / groups, hidden / m), ``filter_bias``
    (m, out, in / groups). Checkpoints of versions before 0.2 call the last two ``value`` and
    ``offset``; they load.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``.
        regions: m. Default: 8.
        base_weight: whether to add a learned static kernel to all filters; the generated ones then
            start at zero. Default: ``True``.
        hidden_channels: a multiple of ``regions``. Default: ``regions``.
        own_guide: whether the layer computes its own guide; if not, ``forward`` must be given one.
            Default: ``True``.

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
        regions: int = 8,
        base_weight: bool = True,
        hidden_channels: int | None = None,
        own_guide: bool = True,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.regions = positive_int("regions", regions)
        hidden = regions if hidden_channels is None else hidden_channels
        self.hidden_channels = positive_int("hidden_channels", hidden)
        if hidden % regions:
            raise UserValueError(
                f"hidden_channels: {hidden}; must be a multiple of regions={regions}"
            )
        self.own_guide = own_guide
        self.register_parameter(
            "weight", nn.Parameter(torch.empty(self.conv_weight_shape)) if base_weight else None
        )
        if own_guide:
            self.guide_weight = nn.Parameter(torch.empty(regions, in_channels, *self.kernel_size))
            self.guide_bias = nn.Parameter(torch.empty(regions))
        self.hidden_weight = nn.Parameter(torch.empty(hidden, in_channels))
        self.hidden_bias = nn.Parameter(torch.empty(hidden))
        shape = (regions, *self.conv_weight_shape[:2])
        self.filter_scale = nn.Parameter(torch.empty(*shape, hidden // regions))
        self.filter_bias = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the base filter and the guide and hidden weights as ``nn.Conv2d`` does.

        Guide and hidden biases start at zero. So do generated filters if there is a base filter;
        without one they start on the scale that it would have.
        """
        plain = self._equivalent_conv()
        if self.bias is not None:
            self.bias.data.copy_(plain.bias.data)
        if self.own_guide:
            nn.init.kaiming_uniform_(self.guide_weight, a=math.sqrt(5))
            nn.init.zeros_(self.guide_bias)
        nn.init.kaiming_uniform_(self.hidden_weight, a=math.sqrt(5))
        nn.init.zeros_(self.hidden_bias)
        if self.weight is not None:
            self.weight.data.copy_(plain.weight.data)
            self._zero_filters()
        else:
            self._draw_filters(1 / math.sqrt(3 * plain.weight[0].numel()))

    def _zero_filters(self) -> None:
        nn.init.zeros_(self.filter_scale)
        nn.init.zeros_(self.filter_bias)

    @torch.no_grad()
    def load_conv_weight_(self, weight: Tensor) -> float:
        """Exact: the plain kernel is the base filter, or for 1x1 every region's ``filter_bias``."""
        if self.weight is None and weight.shape[2:] != (1, 1):
            raise UserValueError(
                f"without base_weight a region's {tuple(weight.shape[2:])} filter has one spatial "
                "pattern and cannot hold a plain kernel; use base_weight=True"
            )
        self._zero_filters()
        if self.weight is not None:
            self.weight.copy_(weight)
        else:
            self.filter_bias.copy_(weight[..., 0, 0])
        return relative_error(weight, weight)

    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Start from the plain kernel; without a base filter, draw with its standard deviation."""
        if self.weight is not None:
            self.load_conv_weight_(weight)
        else:
            self._draw_filters(weight.float().std(correction=0).item())

    def _draw_filters(self, deviation: float) -> None:
        """Draw generated filters, half of their variance in ``filter_bias``."""
        # Every scale is multiplied by a sigmoid near one half, and summed with a region's others.
        nn.init.normal_(
            self.filter_scale, std=2 * deviation / math.sqrt(2 * self.filter_scale.shape[3])
        )
        nn.init.normal_(self.filter_bias, std=deviation / math.sqrt(2))

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """Base and generated filters are summed, so one convolution counts."""
        taps = math.prod(self.kernel_size)
        filters = self.filter_scale.numel() + self.hidden_weight.numel()
        guide = self.regions * self.in_channels * taps * math.prod(output_size)
        parts = super().macs(output_size)
        return parts | dict(guide=guide * self.own_guide, generator=taps * filters)

    def guide(self, input: Tensor) -> Tensor:
        """The layer's own guide, ``(N, regions, H', W')``."""
        return self._guide(*self._padded(input))

    def _guide(self, padded: Tensor, geometry: Geometry) -> Tensor:
        return convolve(padded, self.guide_weight, self.guide_bias, *without_groups(geometry), 1)

    def forward(self, input: Tensor, guide: Tensor | None = None) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``.

        Args:
            input: the input.
            guide: ``(N, regions, H', W')``, in place of the layer's own. Default: the layer's own.

        Raises:
            ValueError: a guide is missing, or given to a layer that computes its own, or has
                another size than the output.
        """
        if (guide is None) != self.own_guide:
            wants = "makes its own" if self.own_guide else "was built with own_guide=False"
            raise UserValueError(
                f"guide: {'given' if guide is not None else 'missing'}, but the layer {wants}"
            )
        padded, geometry = self._padded(input)
        if guide is None:
            guide = self._guide(padded, geometry)
        hidden = self._hidden(input)
        if self.hidden_channels == self.regions:
            factors = hidden, self.filter_scale[..., 0], self.filter_bias
            arguments = padded, guide, *factors, self.bias, *geometry
            return drconv2d_factorised(*arguments, base=self.weight)
        filters = self._filters(hidden)
        return drconv2d(padded, guide, filters, self.bias, *geometry, base=self.weight)

    def _hidden(self, input: Tensor) -> Tensor:
        """What filters are made of, ``(N, hidden, kH, kW)``."""
        pooled = adaptive_avg_pool2d(input, self.kernel_size)
        return F.conv2d(pooled, self.hidden_weight[..., None, None], self.hidden_bias).sigmoid()

    def _filters(self, hidden: Tensor) -> Tensor:
        """The generated filters, ``(N, regions, out, in / groups, kH, kW)``."""
        patterns = hidden.unflatten(1, (self.regions, -1))
        filters = torch.einsum("toci,ntiuv->ntocuv", self.filter_scale, patterns)
        return filters + self.filter_bias[..., None, None]

    def sampling(
        self, locations: Tensor, shares: Tensor, input: Tensor, guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The kernel's cells and the weights of the filter that each location gets."""
        guide = self.guide(input) if guide is None else guide
        filters = self._filters(self._hidden(input))[0]
        if self.weight is not None:
            filters = filters + self.weight
        region = values_at(locations, guide[0].argmax(0))
        return cells_at(locations, shares, self, filters[region])

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        former = dict(value="filter_scale", offset="filter_bias")
        renamed = {prefix + old: prefix + new for old, new in former.items()}
        if any(key in state_dict for key in renamed):
            state_dict = {renamed.get(key, key): value for key, value in state_dict.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), f"regions={self.regions}"]
        if self.weight is None:
            parts.append("base_weight=False")
        if self.hidden_channels != self.regions:
            parts.append(f"hidden_channels={self.hidden_channels}")
        if not self.own_guide:
            parts.append("own_guide=False")
        return ", ".join(parts)
