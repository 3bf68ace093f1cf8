"""DK: deformable kernels, convolutions that resample their kernel.

Gao, Zhu, Lin, Dai: Deformable Kernels: Adapting Effective Receptive Fields for Object Deformation.
ICLR 2020. https://arxiv.org/abs/1910.02940
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.condconv import mix_experts
from ..ops.dispatch import in_full_precision
from ..ops.dk import dk_conv2d
from ..ops.full_precision import conv2d_in_full_precision
from ..ops.geometry import Geometry, without_groups
from ..ops.interpolation import linear_coefficients
from .arguments import int_tuple, one_of, positive_int
from .base import LearnableConv2d, relative_error
from .condconv import route, split_into_experts
from .sampling import values_at

__all__ = ["DeformableKernelConv2d"]

MODES = ("local", "global")
# The paper's kernel spaces by kernel size.
_SCOPES = {1: 2, 3: 4}


class DeformableKernelConv2d(LearnableConv2d):
    r"""Convolution that samples its taps from a larger kernel space at input-dependent positions.

    :math:`O_j = \sum_k I_{j + k}\, W(k + \Delta_{jk})` (Eq. 7), W bilinear in a space of ``scope``
    cells per side, the taps at unit spacing from (scope - k) / 2, positions clipped to the space.
    The offsets :math:`\Delta` are one set per image, from its mean (``mode='global'``), or one set
    per output location, from a convolution of the layer's own geometry (``'local'``), shared by all
    channels. With ``data_offset`` the input is read at moved locations too, as in deformable
    convolution: :math:`I_{j + k + g_{jk}}` (Eq. 11). All offsets start at zero.

    Parameters: ``weight`` (out, in / groups, scope rows, scope columns); ``offset_weight``, (2 kH
    kW, in) if global or (2 kH kW, in, kH, kW) if local, and ``offset_bias`` (2 kH kW), row and
    column of one tap after the other; ``data_offset_weight`` (2 kH kW, in, kH, kW) and
    ``data_offset_bias`` (2 kH kW); with ``num_experts`` the weight has an additional first axis,
    and ``routing_weight`` (experts, in) and ``routing_bias`` (experts) mix it for each image.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``.
        mode: ``'local'`` or ``'global'``. Default: local for depthwise convolutions, as in the
            paper, and global for all others.
        scope: cells of the kernel space on each side, at least the kernel's. Default: 4 for 3, 2
            for 1, else one more than the kernel.
        data_offset: whether to learn data offsets too. Default: ``False``.
        num_experts: kernel spaces to mix by image as CondConv does, ``None`` for one. Default:
            ``None``.
        offset_lr_mult: learning-rate multiplier of the parameters that make offsets; the paper uses
            0.01 for ResNet-50-DW and 0.1 for MobileNetV2. Default: 0.01.

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
        mode: str | None = None,
        scope: int | tuple[int, int] | None = None,
        data_offset: bool = False,
        num_experts: int | None = None,
        offset_lr_mult: float = 0.01,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        depthwise = groups == in_channels == out_channels
        default = "local" if depthwise else "global"
        self.mode = default if mode is None else one_of("mode", mode, MODES)
        if scope is None:
            scope = tuple(_SCOPES.get(k, k + 1) for k in self.kernel_size)
        self.scope = int_tuple("scope", scope, 2, 1)
        if any(s < k for s, k in zip(self.scope, self.kernel_size, strict=True)):
            raise UserValueError(
                f"scope: {self.scope}; must be at least kernel_size={self.kernel_size}"
            )
        self.num_experts = num_experts
        shape = (out_channels, in_channels // groups, *self.scope)
        if num_experts is not None:
            shape = (positive_int("num_experts", num_experts), *shape)
            self.routing_weight = nn.Parameter(torch.empty(num_experts, in_channels))
            self.routing_bias = nn.Parameter(torch.empty(num_experts))
        self.weight = nn.Parameter(torch.empty(shape))
        numel = 2 * self.kernel_size[0] * self.kernel_size[1]
        window = self.kernel_size if self.mode == "local" else ()
        self.offset_weight = nn.Parameter(torch.empty(numel, in_channels, *window))
        self.offset_bias = nn.Parameter(torch.empty(numel))
        self.data_offset = data_offset
        if data_offset:
            self.data_offset_weight = nn.Parameter(
                torch.empty(numel, in_channels, *self.kernel_size)
            )
            self.data_offset_bias = nn.Parameter(torch.empty(numel))
        slow = dict(lr_mult=offset_lr_mult)
        self.optim_policy = {name: slow for name, _ in self.named_parameters() if "offset" in name}
        self.reset_parameters()
        self._watch_bounds()

    def reset_parameters(self) -> None:
        """Draw the kernel space as ``nn.Conv2d`` does its kernel; zero offsets."""
        for space in self.weight.data if self.num_experts else [self.weight.data]:
            nn.init.kaiming_uniform_(space, a=math.sqrt(5))
        if self.bias is not None:
            self.bias.data.copy_(self._equivalent_conv().bias.data)
        self._zero_generators()

    def _zero_generators(self) -> None:
        for name, parameter in self.named_parameters():
            if name not in ("weight", "bias"):
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def load_conv_weight_(self, weight: Tensor) -> float:
        """Exact: the kernel space of least norm that gives the plain kernel at zero offsets.

        Along an axis of one tap that space is constant, and no gradient would ever move the tap.
        What the plain kernel leaves open there is drawn, as a new layer's.
        """
        rows, columns = (self._unmoved(axis).to(weight.device) for axis in (0, 1))
        inverse_rows, inverse_columns = torch.linalg.pinv(rows), torch.linalg.pinv(columns)
        space = inverse_rows @ weight.double() @ inverse_columns.T
        if 1 in self.kernel_size:
            drawn = nn.init.kaiming_uniform_(torch.empty_like(space), a=math.sqrt(5))
            kept_rows, kept_columns = _kept(rows, inverse_rows), _kept(columns, inverse_columns)
            space += drawn - kept_rows @ drawn @ kept_columns.T
        read = (rows @ space @ columns.T).to(weight.dtype)
        space = space.to(weight.dtype)
        self.weight.copy_(
            split_into_experts(space, self.num_experts) if self.num_experts else space
        )
        self._zero_generators()
        return relative_error(read, weight)

    def _unmoved(self, axis: int) -> Tensor:
        """(taps, cells) along an axis at zero offsets."""
        k, s = self.kernel_size[axis], self.scope[axis]
        return linear_coefficients(torch.arange(k, dtype=torch.double) + (s - k) / 2, s)

    @property
    def macs_per_output(self) -> int:
        """The dense local form multiplies all cells of the kernel space, scope squared."""
        if self.mode == "local" and self.in_channels > self.groups:
            return self.in_channels // self.groups * math.prod(self.scope)
        return super().macs_per_output

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """Adds generators and, as the paper counts, two multiply-adds per resampled element."""
        locations, taps = math.prod(output_size), math.prod(self.kernel_size)
        parts = super().macs(output_size)
        if self.mode == "local":
            generator, sampled = (
                self.offset_weight.numel() * locations,
                self.in_channels * locations,
            )
        else:
            generator, sampled = self.offset_weight.numel(), math.prod(self.conv_weight_shape[:2])
        if self.data_offset:
            generator += self.data_offset_weight.numel() * locations
            sampled += self.in_channels * locations
        if self.num_experts is not None:
            generator += self.routing_weight.numel() + self.weight.numel()
        return parts | dict(generator=generator, sampling=2 * taps * sampled)

    def _offsets(self, input: Tensor, padded: Tensor, geometry: Geometry) -> Tensor:
        """Of the kernel's taps, ``(N, 2 kH kW, H', W')`` or ``(N, 2 kH kW, 1, 1)``."""
        # Offsets stay in float32: half precision would quantise the taps' positions.
        if self.mode == "global":
            mean = in_full_precision(torch.mean, input, (2, 3))
            offsets = in_full_precision(F.linear, mean, self.offset_weight, self.offset_bias)
            return offsets[..., None, None]
        parameters = self.offset_weight, self.offset_bias
        return conv2d_in_full_precision(padded, *parameters, *without_groups(geometry))

    def _data_offsets(self, padded: Tensor, geometry: Geometry) -> Tensor:
        """Of the locations that are read, ``(N, 2 kH kW, H', W')``."""
        parameters = self.data_offset_weight, self.data_offset_bias
        return conv2d_in_full_precision(padded, *parameters, *without_groups(geometry))

    def tap_positions(self, locations: Tensor, input: Tensor) -> Tensor:
        """Where each tap is read in the kernel space, at output locations.

        Args:
            locations: ``(L, 2)``, rows and columns of the output.
            input: ``(1, in_channels, H, W)``.

        Returns:
            Tensor: ``(L, kH kW, 2)``, rows and columns in cells of the space, clipped to it.
        """
        offsets = self._offsets(input, *self._padded(input))[0]
        shared = self.mode == "global"
        offsets = values_at(locations * (not shared), offsets).unflatten(1, (-1, 2))
        sides = zip(self.kernel_size, self.scope, strict=True)
        grids = [torch.arange(k, device=offsets.device) + (s - k) / 2 for k, s in sides]
        last = offsets.new_tensor(self.scope) - 1
        return (torch.cartesian_prod(*grids).to(offsets) + offsets).clamp(last * 0, last)

    def sampling(self, locations: Tensor, shares: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel's cells, moved by the data offsets, and the resampled kernel's weights."""
        points, weights = super().sampling(locations, shares, input)
        if self.data_offset:
            moved = values_at(locations, self._data_offsets(*self._padded(input))[0])
            points = points + moved.unflatten(1, (-1, 2))
        return points, weights

    def _kernels_at(self, locations: Tensor, input: Tensor) -> Tensor:
        space = self.weight
        if self.num_experts is not None:
            space = mix_experts(route(input, self.routing_weight, self.routing_bias), space)[0]
        positions = self.tap_positions(locations, input)
        sides = zip(positions.unbind(-1), self.scope, strict=True)
        rows, columns = (linear_coefficients(p, s).to(space) for p, s in sides)
        kernels = torch.einsum("lka,lkb,oiab->loik", rows, columns, space)
        return kernels.unflatten(-1, self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        padded, geometry = self._padded(input)
        offsets = self._offsets(input, padded, geometry)
        moved = self._data_offsets(padded, geometry) if self.data_offset else None

        def convolve(images: slice, space: Tensor) -> Tensor:
            own = None if moved is None else moved[images]
            arguments = padded[images], space, offsets[images], self.kernel_size, self.bias
            return dk_conv2d(*arguments, *geometry, data_offsets=own)

        if self.num_experts is None:
            return convolve(slice(None), self.weight)
        routing = route(input, self.routing_weight, self.routing_bias)
        if len(input) == 0:
            return convolve(slice(None), mix_experts(routing, self.weight).sum(0))
        spaces = mix_experts(routing, self.weight)
        return torch.cat([convolve(slice(i, i + 1), space) for i, space in enumerate(spaces)])

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), f"mode={self.mode!r}, scope={self.scope}"]
        if self.data_offset:
            parts.append("data_offset=True")
        if self.num_experts:
            parts.append(f"num_experts={self.num_experts}")
        return ", ".join(parts)


def _kept(read: Tensor, inverse: Tensor) -> Tensor:
    """Projection of an axis of the space on what one tap reads; with more taps all of it."""
    return inverse @ read if len(read) == 1 else torch.eye(read.shape[1]).to(read)
