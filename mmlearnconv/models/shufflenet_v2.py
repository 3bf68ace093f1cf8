"""ShuffleNetV2, and the network of its blocks that DetNAS found for detection.

Ma, Zhang, Zheng, Sun: ShuffleNet V2. ECCV 2018. https://arxiv.org/abs/1807.11164
Chen, Yang, Zhang, Meng, Xiao, Sun: DetNAS: Backbone Search for Object Detection. NeurIPS 2019.
https://arxiv.org/abs/1903.10979
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ..errors import UserValueError
from ..layers import DRConv2d
from ..registry import MODELS
from .base import KAIMING, Backbone

# Channels of the stages and of the last 1x1 convolution, by width.
CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class _Layers:
    """Builds lists of layers, with one network's ``conv_cfg`` and ``norm_cfg``."""

    def __init__(self, conv_cfg: dict[str, Any] | None, norm_cfg: dict[str, Any] | None) -> None:
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg or dict(type="BN")

    def conv(self, cin: int, cout: int, size: int, relu: bool = False, **kw: int) -> list:
        """Convolution and norm, and ReLU where asked for."""
        conv = build_conv_layer(
            self.conv_cfg, cin, cout, kernel_size=size, padding=size // 2, bias=False, **kw
        )
        return [
            conv,
            build_norm_layer(self.norm_cfg, cout)[1],
            *([nn.ReLU(inplace=True)] if relu else []),
        ]

    def depthwise(self, channels: int, size: int, stride: int = 1) -> list:
        return self.conv(channels, channels, size, stride=stride, groups=channels)


class ShuffleBlock(BaseModule):
    """1x1, depthwise 3x3, 1x1 on half of the channels; with stride 2, on all of them.

    With stride 2 a second branch, depthwise 3x3 and 1x1, replaces the unchanged half.

    Args:
        in_channels, out_channels: of the map.
        stride: 1 or 2.
        layers: how convolutions and norms are built.
        pointwise: how the main branch's 1x1 convolutions are built.
        share_guide: whether the two 1x1 DRConv layers of a block with stride 1 use the same guide.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        layers: _Layers,
        pointwise: _Layers,
        share_guide: bool,
    ) -> None:
        super().__init__()
        self.stride = stride
        half = out_channels // 2
        if stride == 2:
            self.branch1 = nn.Sequential(
                *layers.depthwise(in_channels, 3, stride), *layers.conv(in_channels, half, 1, True)
            )
        self.branch2 = nn.Sequential(
            *pointwise.conv(in_channels if stride == 2 else half, half, 1, True),
            *layers.depthwise(half, 3, stride),
            *pointwise.conv(half, half, 1, True),
        )
        self.guide = None
        if share_guide and stride == 1:
            self.guide = nn.Conv2d(half, self.branch2[0].regions, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        if self.stride == 2:
            parts = self.branch1(x), self.branch2(x)
        else:
            kept, x = x.chunk(2, 1)
            parts = kept, self._guided(x)
        return F.channel_shuffle(torch.cat(parts, 1), 2)

    def _guided(self, x: Tensor) -> Tensor:
        if self.guide is None:
            return self.branch2(x)
        guide = self.guide(x)
        for layer in self.branch2:
            x = layer(x, guide) if isinstance(layer, DRConv2d) else layer(x)
        return x


@MODELS.register_module()
class ShuffleNetV2(Backbone):
    """ShuffleNetV2 backbone.

    Names of parameters are torchvision's, whose checkpoints load.

    Args:
        widen_factor: 0.5, 1, 1.5 or 2. Default: 1.
        in_channels: of the image. Default: 3.
        out_indices: stages to return; at width 1, 116, 232 and 464 channels at strides 8, 16, 32,
            and the last 1x1 convolution's 1024. Default: the first three.
        frozen_stages: -1 none, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval: whether no BatchNorm updates its statistics. Default: ``False``.
        conv_cfg: all convolutions. Default: plain.
        pointwise_conv_cfg: the two 1x1 convolutions of a block's main branch. Default:
            ``conv_cfg``.
        share_guide: whether the two 1x1 ``DRConv`` layers of a block with stride 1 use the same
            guide, which the block computes from its input. Default: ``False``.
        norm_cfg: norms. Default: ``dict(type='BN')``.
        init_cfg: mmengine's. Default: Kaiming.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        pointwise_conv_cfg: dict[str, Any] | None = None,
        share_guide: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        if widen_factor not in CHANNELS:
            raise UserValueError(f"widen_factor: {widen_factor}; allowed are {list(CHANNELS)}")
        super().__init__(4, out_indices, frozen_stages, norm_eval, init_cfg)
        pointwise_conv_cfg = pointwise_conv_cfg or conv_cfg or {}
        if share_guide and pointwise_conv_cfg.get("type") not in ("DRConv", "DRConv2d", DRConv2d):
            raise UserValueError(
                "share_guide: True needs pointwise_conv_cfg=dict(type='DRConv', ...)"
            )
        layers, guided = _Layers(conv_cfg, norm_cfg), _Layers(pointwise_conv_cfg or None, norm_cfg)
        sharing = guided
        if share_guide:
            sharing = _Layers(pointwise_conv_cfg | dict(own_guide=False), norm_cfg)
        self.conv1 = Sequential(*layers.conv(in_channels, 24, 3, True, stride=2))
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        *stages, last = CHANNELS[widen_factor]
        channels = 24
        # No stage behind the last output: its parameters would get no gradient.
        for i, (width, depth) in enumerate(zip(stages, (4, 8, 4), strict=True)):
            if i > max(self.out_indices):
                break
            blocks = [ShuffleBlock(channels, width, 2, layers, guided, share_guide)]
            for _ in range(1, depth):
                blocks.append(ShuffleBlock(width, width, 1, layers, sharing, share_guide))
            self.add_module(f"stage{i + 2}", Sequential(*blocks))
            channels = width
        if 3 in self.out_indices:
            self.conv5 = Sequential(*layers.conv(channels, last, 1, True))
        self.freeze()

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The first convolution and pooling; three stages of blocks; the last convolution."""
        names = ("stage2", "stage3", "stage4", "conv5")
        stages = [[getattr(self, name)] for name in names if hasattr(self, name)]
        return [[self.conv1, self.maxpool], *stages]


class DetNASBlock(BaseModule):
    """A block of ShuffleNetV2 with one depthwise kernel of a chosen size, or with three of 3x3.

    Args:
        in_channels, out_channels: of the map.
        stride: 1 or 2.
        kind: 0, 1, 2: depthwise 3x3, 5x5, 7x7; 3: three times depthwise 3x3 and 1x1 ('Xception').
        layers: how convolutions and norms are built.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kind: int, layers: _Layers
    ) -> None:
        super().__init__()
        self.stride = stride
        size, mid = 3 if kind == 3 else 3 + 2 * kind, out_channels // 2
        cin = in_channels if stride == 2 else in_channels // 2
        cout = out_channels - cin
        if stride == 2:
            self.proj = Sequential(
                *layers.depthwise(in_channels, size, 2), *layers.conv(in_channels, in_channels, 1)
            )
        if kind == 3:
            parts = [
                *layers.depthwise(cin, 3, stride),
                *layers.conv(cin, mid, 1, True),
                *layers.depthwise(mid, 3),
                *layers.conv(mid, mid, 1, True),
                *layers.depthwise(mid, 3),
                *layers.conv(mid, cout, 1),
            ]
        else:
            parts = [
                *layers.conv(cin, mid, 1, True),
                *layers.depthwise(mid, size, stride),
                *layers.conv(mid, cout, 1),
            ]
        self.branch = Sequential(*parts)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        if self.stride == 2:
            kept = self.proj(x)
        else:
            kept, x = F.channel_shuffle(x, 2).chunk(2, 1)
        return self.relu(torch.cat([kept, self.branch(x)], 1))


@MODELS.register_module()
class DetNASNet(Backbone):
    """DetNAS's backbone of 300 M multiply-adds, found for FPN on COCO.

    Args:
        kinds: kind of each of the 20 blocks, 0 to 3 as in :class:`DetNASBlock`. Default: the
            published ones.
        in_channels: of the image. Default: 3.
        out_indices: stages to return: 64, 160, 320, 640 channels at strides 4, 8, 16, 32.
            Default: all four.
        frozen_stages: -1 none, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval: whether no BatchNorm updates its statistics. Default: ``False``.
        conv_cfg: all convolutions. Default: plain.
        norm_cfg: norms. Default: ``dict(type='BN')``.
        init_cfg: mmengine's. Default: Kaiming.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    stages = ((64, 4), (160, 4), (320, 8), (640, 4))

    def __init__(
        self,
        kinds: Sequence[int] = (2, 1, 2, 0, 2, 1, 1, 2, 3, 3, 1, 3, 0, 0, 3, 1, 3, 1, 3, 2),
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        super().__init__(len(self.stages), out_indices, frozen_stages, norm_eval, init_cfg)
        if len(kinds) != 20 or any(kind not in range(4) for kind in kinds):
            raise UserValueError(f"kinds: {kinds}; must be 20 integers from 0 to 3")
        layers, kinds = _Layers(conv_cfg, norm_cfg), iter(kinds)
        self.conv1 = Sequential(*layers.conv(in_channels, 16, 3, True, stride=2))
        channels = 16
        # No stage behind the last output: its parameters would get no gradient.
        for i, (width, depth) in enumerate(self.stages[: max(self.out_indices) + 1]):
            blocks = []
            for j in range(depth):
                stride = 2 if j == 0 else 1
                blocks.append(DetNASBlock(channels, width, stride, next(kinds), layers))
                channels = width
            self.add_module(f"stage{i + 1}", Sequential(*blocks))
        self.freeze()

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The first convolution; the stages."""
        stages = [[getattr(self, f"stage{i + 1}")] for i in range(max(self.out_indices) + 1)]
        return [[self.conv1], *stages]
