"""MobileNetV1.

Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications.
2017. https://arxiv.org/abs/1704.04861
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList, Sequential
from torch import Tensor, nn

from ..registry import MODELS
from .base import KAIMING, Backbone

# Channels and blocks of the stages; each but the first halves the map.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


class SeparableConv(BaseModule):
    """Depthwise 3x3 and 1x1, each with norm and ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        conv_cfg: dict[str, Any] | None,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.conv_dw = build_conv_layer(
            conv_cfg,
            in_channels,
            in_channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            groups=in_channels,
            bias=False,
        )
        self.bn1 = build_norm_layer(norm_cfg, in_channels)[1]
        self.conv_pw = build_conv_layer(
            conv_cfg, in_channels, out_channels, kernel_size=1, bias=False
        )
        self.bn2 = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        x = self.act(self.bn1(self.conv_dw(x)))
        return self.act(self.bn2(self.conv_pw(x)))


@MODELS.register_module()
class MobileNetV1(Backbone):
    """MobileNetV1 backbone.

    Names of parameters are timm's, whose ``mobilenetv1_100`` checkpoints load.

    Args:
        widen_factor: multiplier of all channels. Default: 1.
        in_channels: of the image. Default: 3.
        out_indices: stages to return: 64, 128, 256, 512 and 1024 channels at strides 2 to 32.
            Default: the last four.
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
        widen_factor: float = 1.0,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        super().__init__(len(STAGES), out_indices, frozen_stages, norm_eval, init_cfg)
        norm_cfg = norm_cfg or dict(type="BN")
        channels = int(32 * widen_factor)
        self.conv_stem = build_conv_layer(
            conv_cfg, in_channels, channels, kernel_size=3, stride=2, padding=1, bias=False
        )
        self.bn1 = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU6(inplace=True)
        self.blocks = ModuleList()
        # No stage behind the last output: its parameters would get no gradient.
        for i, (width, depth) in enumerate(STAGES[: max(self.out_indices) + 1]):
            stage = []
            for j in range(depth):
                stride, out = 2 if i > 0 and j == 0 else 1, int(width * widen_factor)
                stage.append(SeparableConv(channels, out, stride, conv_cfg, norm_cfg))
                channels = out
            self.blocks.append(Sequential(*stage))
        self.freeze()

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The first convolution; the stages."""
        return [[self.conv_stem, self.bn1, self.act], *([stage] for stage in self.blocks)]
