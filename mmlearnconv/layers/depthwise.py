"""Plain depthwise convolutions that run on this package's operations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.depthwise import depthwise_conv2d, depthwise_taps
from .arguments import int_tuple, positive_int

__all__ = ["DepthwiseConv2d", "DepthwiseTapsConv2d"]


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one group per channel, made fast for large kernels.

    In all other respects it is an ``nn.Conv2d``, with the same arguments, parameters and
    checkpoints. See :func:`mmlearnconv.ops.depthwise_conv2d` for what is faster.

    Raises:
        ValueError: ``in_channels``, ``out_channels`` and ``groups`` differ.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        if not in_channels == out_channels == self.groups:
            raise UserValueError(
                f"groups: {self.groups}, with in_channels={in_channels} and out_channels="
                f"{out_channels}; in a depthwise convolution the three are equal"
            )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.ndim != 4:
            return super()._conv_forward(input, weight, bias)
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode), (0, 0)
        return depthwise_conv2d(input, weight, bias, self.stride, padding, self.dilation)


def build_depthwise(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *args: Any,
    **kwargs: Any,
) -> nn.Conv2d:
    """``DepthwiseConv2d`` for depthwise convolutions, ``nn.Conv2d`` for the others."""
    depthwise = groups == in_channels == out_channels
    layer = DepthwiseConv2d if depthwise else nn.Conv2d
    geometry = kernel_size, stride, padding, dilation, groups
    return layer(in_channels, out_channels, *geometry, *args, **kwargs)


class DepthwiseTapsConv2d(nn.Module):
    """Depthwise convolution whose kernels are lists of taps: what DCLS layers fold into.

    Parameters: ``weight`` (channels, taps), ``bias`` (channels) or ``None``. Buffer: ``cells``
    (channels, taps, 2), row and column of each tap in the window.

    Args:
        channels: channels of the input and of the output.
        window: rows and columns of the kernel's window.
        taps: taps per kernel.
        stride, padding, dilation: as ``nn.Conv2d``, of the window. Default: 1, 0 and 1.
        bias: whether there is a bias. Default: ``True``.

    Raises:
        TypeError: a size that is not an integer, or not one or two integers.
        ValueError: a size out of range.
    """

    def __init__(
        self,
        channels: int,
        window: int | tuple[int, int],
        taps: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        channels, taps = positive_int("channels", channels), positive_int("taps", taps)
        self.window = int_tuple("window", window, 2, 1)
        self.stride = int_tuple("stride", stride, 2, 1)
        self.padding = int_tuple("padding", padding, 2, 0)
        self.dilation = int_tuple("dilation", dilation, 2, 1)
        self.weight = nn.Parameter(torch.zeros(channels, taps))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.register_buffer("cells", torch.zeros(channels, taps, 2, dtype=torch.long))

    @classmethod
    def from_taps(
        cls, values: Tensor, cells: Tensor, bias: Tensor | None, window: Any, *geometry: Any
    ) -> "DepthwiseTapsConv2d":
        """A convolution with the given taps, on their device.

        Args:
            values: weights of the taps, ``(channels, taps)``; copied.
            cells: their rows and columns in the window, ``(channels, taps, 2)``; copied.
            bias: ``(channels,)``, copied, or ``None``.
            window: rows and columns of the window.
            *geometry: stride, padding and dilation.
        """
        conv = cls(len(values), window, values.shape[1], *geometry, bias is not None).to(values)
        for target, source in ((conv.weight, values), (conv.cells, cells), (conv.bias, bias)):
            if source is not None:
                target.data.copy_(source)
        return conv

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, channels, H, W)`` as a kernel of the window's size would."""
        geometry = self.window, self.bias, self.stride, self.padding, self.dilation
        return depthwise_taps(input, self.weight[:, None], self.cells[:, None], *geometry)

    def extra_repr(self) -> str:
        channels, taps = self.weight.shape
        return (
            f"{channels}, window={self.window}, taps={taps}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )
