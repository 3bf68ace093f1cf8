"""DK: deformable kernels, convolutions that resample their kernel.

Gao, Zhu, Lin, Dai: Deformable Kernels: Adapting Effective Receptive Fields for Object Deformation.
ICLR 2020. https://arxiv.org/abs/1910.02940
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dk_conv2d
from ..ops.autocast import without_autocast
from ..ops.reference import linear_coefficients
from ..registry import CONV_LAYERS
from .base import LearnableConv2d, int_tuple, positive_int, relative_error
from .condconv import route, split_into_experts

MODES = ("local", "global")
# The paper's kernel spaces by kernel size.
_SCOPES = {1: 2, 3: 4}


@CONV_LAYERS.register_module()
class DeformableKernelConv2d(LearnableConv2d):
    r"""Convolution whose k x k taps are read from a larger kernel space, where the input says.

    :math:`O_j = \sum_k I_{j + k}\, W(k + \Delta_{jk})` (Eq. 7), W bilinear in a space of ``scope``
    cells a side, the taps at unit spacing from (scope - k) / 2, positions clipped to the space. The
    offsets :math:`\Delta` are one set an image, from its mean (``mode='global'``), or one set an
    output location, from a convolution of the layer's own geometry (``'local'``), shared by all
    channels. With ``data_offset`` the input is read at moved places too, as in deformable
    convolution: :math:`I_{j + k + g_{jk}}` (Eq. 11). All offsets start at zero.

    Parameters: ``weight`` (out, in / groups, scope rows, scope columns), ``offset_weight`` (2 kH
    kW, in) or (2 kH kW, in, kH, kW) and ``offset_bias`` (2 kH kW), row and column of tap after tap;
    ``data_offset_weight`` and ``data_offset_bias`` likewise; with ``num_experts`` the weight has a
    first axis more, and ``routing_weight`` (experts, in) and ``routing_bias`` mix it by image.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode: as ``nn.Conv2d``.
        mode: ``'local'`` or ``'global'``. Default: ``'local'``.
        scope: cells of the kernel space on each side, at least the kernel's. Default: 4 for 3, 2
            for 1, else one more than the kernel.
        data_offset: whether to learn data offsets too. Default: ``False``.
        num_experts: kernel spaces to mix by image as CondConv does, ``None`` for one. Default:
            ``None``.
        offset_lr_mult: learning rate of the offsets' parameters over the others'; the paper takes
            0.01 for ResNet-50-DW, 0.1 for MobileNetV2. Default: 0.01.

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
        mode: str = "local",
        scope: int | tuple[int, int] | None = None,
        data_offset: bool = False,
        num_experts: int | None = None,
        offset_lr_mult: float = 0.01,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )
        if mode not in MODES:
            raise ValueError(f"mode: {mode!r}; allowed are {MODES}")
        self.mode = mode
        if scope is None:
            scope = tuple(_SCOPES.get(k, k + 1) for k in self.kernel_size)
        self.scope = int_tuple("scope", scope, 2, 1)
        if any(s < k for s, k in zip(self.scope, self.kernel_size, strict=True)):
            raise ValueError(
                f"scope: {self.scope}; must be at least kernel_size={self.kernel_size}"
            )
        self.num_experts = num_experts
        shape = (out_channels, in_channels // groups, *self.scope)
        if num_experts is not None:
            shape = (positive_int("num_experts", num_experts), *shape)
            self.routing_weight = nn.Parameter(torch.empty(num_experts, in_channels))
            self.routing_bias = nn.Parameter(torch.empty(num_experts))
        self.weight = nn.Parameter(torch.empty(shape))
        numbers = 2 * self.kernel_size[0] * self.kernel_size[1]
        window = self.kernel_size if mode == "local" else ()
        self.offset_weight = nn.Parameter(torch.empty(numbers, in_channels, *window))
        self.offset_bias = nn.Parameter(torch.empty(numbers))
        self.data_offset = data_offset
        if data_offset:
            self.data_offset_weight = nn.Parameter(
                torch.empty(numbers, in_channels, *self.kernel_size)
            )
            self.data_offset_bias = nn.Parameter(torch.empty(numbers))
        slow = dict(lr_mult=offset_lr_mult)
        self.optim_policy = {name: slow for name, _ in self.named_parameters() if "offset" in name}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel space as ``nn.Conv2d`` does its kernel; zero offsets."""
        for space in self.weight.data if self.num_experts else [self.weight.data]:
            nn.init.kaiming_uniform_(space, a=math.sqrt(5))
        if self.bias is not None:
            self.bias.data.copy_(self._plain_twin().bias.data)
        self._zero_generators()

    def _zero_generators(self) -> None:
        for name, parameter in self.named_parameters():
            if name not in ("weight", "bias"):
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def set_from_plain(self, weight: Tensor) -> list[tuple[LearnableConv2d, float]]:
        """Exact: the least-norm kernel space that the unmoved taps read the plain kernel from."""
        rows, columns = (self._unmoved(axis).to(weight.device) for axis in (0, 1))
        inverse_rows, inverse_columns = torch.linalg.pinv(rows), torch.linalg.pinv(columns)
        space = inverse_rows @ weight.double() @ inverse_columns.T
        read = (rows @ space @ columns.T).to(weight.dtype)
        space = space.to(weight.dtype)
        self.weight.copy_(
            split_into_experts(space, self.num_experts) if self.num_experts else space
        )
        self._zero_generators()
        return [(self, relative_error(read, weight))]

    def _unmoved(self, axis: int) -> Tensor:
        """(taps, cells) along an axis at zero offsets."""
        k, s = self.kernel_size[axis], self.scope[axis]
        return linear_coefficients(torch.arange(k, dtype=torch.double) + (s - k) / 2, s)

    @property
    def taps_per_output(self) -> int:
        """Dense and local, the whole kernel space is multiplied, by the resampled input."""
        if self.mode == "local" and self.in_channels > self.groups:
            return self.in_channels // self.groups * math.prod(self.scope)
        return super().taps_per_output

    def multiply_adds(self, output_size: Sequence[int]) -> dict[str, int]:
        """The paper's figures have two multiply-adds for a resampled number."""
        places, taps = math.prod(output_size), math.prod(self.kernel_size)
        parts = super().multiply_adds(output_size)
        if self.mode == "local":
            generator, sampled = self.offset_weight.numel() * places, self.in_channels * places
        else:
            generator, sampled = self.offset_weight.numel(), math.prod(self.plain_shape[:2])
        if self.data_offset:
            generator += self.data_offset_weight.numel() * places
            sampled += self.in_channels * places
        if self.num_experts is not None:
            generator += self.routing_weight.numel() + self.weight.numel()
        return parts | dict(generator=generator, sampling=2 * taps * sampled)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        padded, padding = self._padded(input)
        geometry = (self.stride, padding, self.dilation)
        # Offsets keep float32: half precision would move taps by steps.
        with without_autocast(input):
            dtype = torch.promote_types(self.offset_weight.dtype, torch.float32)
            source = (input if self.mode == "global" else padded).to(dtype)
            weight, bias = self.offset_weight.to(dtype), self.offset_bias.to(dtype)
            if self.mode == "global":
                offsets = F.linear(source.mean((2, 3)), weight, bias)[..., None, None]
            else:
                offsets = F.conv2d(source, weight, bias, *geometry)
            moved = None
            if self.data_offset:
                weight, bias = self.data_offset_weight.to(dtype), self.data_offset_bias.to(dtype)
                moved = F.conv2d(padded.to(dtype), weight, bias, *geometry)

        def convolve(images: slice, space: Tensor) -> Tensor:
            own = None if moved is None else moved[images]
            kernel = (self.kernel_size, *geometry, self.groups)
            return dk_conv2d(padded[images], space, offsets[images], *kernel, data_offsets=own)

        if self.num_experts is None:
            return self._finish(convolve(slice(None), self.weight), input)
        routing = route(input, self.routing_weight, self.routing_bias)
        if len(input) == 0:
            nothing = (routing.sum(0) @ self.weight.flatten(1)).view_as(self.weight[0])
            return self._finish(convolve(slice(None), nothing), input)
        spaces = (routing @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        outputs = [convolve(slice(i, i + 1), space) for i, space in enumerate(spaces)]
        return self._finish(torch.cat(outputs), input)

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), f"mode={self.mode!r}, scope={self.scope}"]
        if self.data_offset:
            parts.append("data_offset=True")
        if self.num_experts:
            parts.append(f"num_experts={self.num_experts}")
        return ", ".join(parts)


@CONV_LAYERS.register_module("DK")
def build_dk(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *args: Any,
    mode: str | None = None,
    **kwargs: Any,
) -> DeformableKernelConv2d:
    """``DeformableKernelConv2d``: local for depthwise convolutions and global else, unless told."""
    if mode is None:
        mode = "local" if groups == in_channels == out_channels else "global"
    return DeformableKernelConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        *args,
        mode=mode,
        **kwargs,
    )
