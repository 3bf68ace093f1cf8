"""ResNet with depthwise 3x3 convolutions of twice the channels: the DK paper's base network.

Gao, Zhu, Lin, Dai: Deformable Kernels. ICLR 2020, table 5. https://arxiv.org/abs/1910.02940
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ..errors import UserValueError
from ..registry import MODELS
from .base import KAIMING, Backbone

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STYLES = ("pytorch", "caffe")


class DepthwiseBottleneck(BaseModule):
    """1x1 to twice a ResNet's width, depthwise 3x3, 1x1 to four times it, added to the input."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        style: str,
        conv_cfg: dict[str, Any] | None,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        first, second = (1, stride) if style == "pytorch" else (stride, 1)
        inner, out = 2 * width, 4 * width

        def conv(*args: int, **kwargs: Any) -> nn.Module:
            return build_conv_layer(conv_cfg, *args, bias=False, **kwargs)

        def norm(channels: int) -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1]

        self.conv1 = conv(in_channels, inner, kernel_size=1, stride=first)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, kernel_size=3, stride=second, padding=1, groups=inner)
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out, kernel_size=1)
        self.bn3 = norm(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out:
            self.downsample = nn.Sequential(
                conv(in_channels, out, kernel_size=1, stride=stride), norm(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 4 * width, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


@MODELS.register_module()
class ResNetDW(Backbone):
    """ResNet-DW backbone: bottlenecks with depthwise 3x3 convolutions of twice the channels.

    Names of parameters are torchvision's ResNet's. No plain checkpoint of it is public.

    Args:
        depth: 50, 101 or 152. Default: 50.
        in_channels: of the image. Default: 3.
        style: ``'pytorch'`` strides in the 3x3 convolutions, ``'caffe'`` in the first 1x1.
            Default: ``'pytorch'``.
        out_indices: stages to return: 256, 512, 1024 and 2048 channels at strides 4, 8, 16, 32.
            Default: all four.
        frozen_stages: -1 none, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval: whether no BatchNorm updates its statistics. Default: ``False``.
        conv_cfg: all convolutions. Default: plain.
        norm_cfg: norms. Default: ``dict(type='BN')``.
        init_cfg: mmengine's. Default: Kaiming.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    def __init__(
        self,
        depth: int = 50,
        in_channels: int = 3,
        style: str = "pytorch",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        if depth not in DEPTHS:
            raise UserValueError(f"depth: {depth}; allowed are {list(DEPTHS)}")
        if style not in STYLES:
            raise UserValueError(f"style: {style!r}; allowed are {STYLES}")
        super().__init__(4, out_indices, frozen_stages, norm_eval, init_cfg)
        norm_cfg = norm_cfg or dict(type="BN")
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False
        )
        self.bn1 = build_norm_layer(norm_cfg, 64)[1]
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = 64
        # No stage behind the last output: its parameters would get no gradient.
        for i in range(max(self.out_indices) + 1):
            width, blocks = 64 * 2**i, []
            for j in range(DEPTHS[depth][i]):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(
                    DepthwiseBottleneck(channels, width, stride, style, conv_cfg, norm_cfg)
                )
                channels = 4 * width
            self.add_module(f"layer{i + 1}", Sequential(*blocks))
        self.freeze()

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The first convolution and pooling; ``layer1`` to ``layer4``."""
        layers = [getattr(self, f"layer{i + 1}") for i in range(max(self.out_indices) + 1)]
        return [[self.conv1, self.bn1, self.relu, self.maxpool], *([layer] for layer in layers)]
