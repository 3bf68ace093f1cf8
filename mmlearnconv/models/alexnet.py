"""AlexNet, in its one-tower form.

Krizhevsky: One weird trick for parallelizing convolutional neural networks. 2014.
https://arxiv.org/abs/1404.5997
"""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer
from mmengine.model import Sequential
from torch import nn

from ..registry import MODELS
from .base import KAIMING, Backbone


@MODELS.register_module()
class AlexNet(Backbone):
    """AlexNet backbone: its five convolutions, without the last pooling.

    Names of parameters are torchvision's, whose checkpoint loads.

    Args:
        in_channels: of the image. Default: 3.
        out_indices: stages to return: 192 channels at stride 8, 256 at stride 16. Default: the
            second.
        frozen_stages: -1 none, 0 the first convolution, i that and the first i stages.
            Default: -1.
        conv_cfg: all convolutions. Default: plain.
        init_cfg: mmengine's. Default: Kaiming.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1,),
        frozen_stages: int = -1,
        conv_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        super().__init__(2, out_indices, frozen_stages, False, init_cfg)

        def conv(*args: int, **kwargs: int) -> list[nn.Module]:
            return [build_conv_layer(conv_cfg, *args, **kwargs), nn.ReLU(inplace=True)]

        def pool() -> nn.Module:
            return nn.MaxPool2d(kernel_size=3, stride=2)

        layers = [
            *conv(in_channels, 64, kernel_size=11, stride=4, padding=2),
            pool(),
            *conv(64, 192, kernel_size=5, padding=2),
        ]
        # No stage behind the last output: its parameters would get no gradient.
        if 1 in self.out_indices:
            layers += [
                pool(),
                *conv(192, 384, kernel_size=3, padding=1),
                *conv(384, 256, kernel_size=3, padding=1),
                *conv(256, 256, kernel_size=3, padding=1),
            ]
        self.features = Sequential(*layers)
        self.freeze()

    def stem_and_stages(self) -> list[Sequence[nn.Module]]:
        """The first convolution; up to the second; up to the fifth."""
        return [self.features[:2], self.features[2:5], self.features[5:]]
