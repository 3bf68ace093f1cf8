"""Networks that are only counted."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from mmlearnconv.registry import MODELS


class Classifier(nn.Module):
    """A backbone with a classifier of 1000 classes, to be counted.

    Args:
        backbone: config of the backbone, which returns one map.
        channels: of that map.
        hidden: channels of the layers before the last one; with any, the map is pooled to 6x6, as
            in AlexNet.
    """

    def __init__(
        self, backbone: Mapping[str, Any], channels: int, hidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        size = 6 if hidden else 1
        layers: list[nn.Module] = [nn.MaxPool2d(3, 2)] if hidden else []
        layers += [nn.AdaptiveAvgPool2d(size)]
        for before, after in pairwise([channels, *hidden, 1000]):
            # Linear layers written as convolutions, so that rules of SwapConv can match them.
            layers += [nn.Conv2d(before, after, size), nn.ReLU()]
            size = 1
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` to ``(N, 1000, 1, 1)``."""
        return self.head(self.backbone(images)[-1])


class MobileFaceNet(nn.Sequential):
    """MobileFaceNet for faces of 112x96, to be counted.

    Chen, Liu, Gao, Han: MobileFaceNets. CCBR 2018. https://arxiv.org/abs/1804.07573
    """

    def __init__(self) -> None:
        def conv(cin: int, cout: int, size: Any = 1, padding: int = 0, **kw: int) -> nn.Module:
            return nn.Conv2d(cin, cout, size, padding=padding, bias=False, **kw)

        layers = [conv(3, 64, 3, 1, stride=2), conv(64, 64, 3, 1, groups=64)]
        channels, bottlenecks = 64, []
        for expansion, width, count, stride in (
            *((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1)),
            *((4, 128, 1, 2), (2, 128, 2, 1)),
        ):
            for number in range(count):
                inner = channels * expansion
                step = 1 if number else stride
                depthwise = conv(inner, inner, 3, 1, stride=step, groups=inner)
                parts = conv(channels, inner), depthwise, conv(inner, width)
                bottlenecks.append(nn.Sequential(*parts))
                channels = width
        last = [conv(128, 512), conv(512, 512, (7, 6), groups=512), conv(512, 128)]
        super().__init__(*layers, nn.Sequential(*bottlenecks), *last)


def classifier(
    backbone: Mapping[str, Any], channels: int, *swaps: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """Config of a :class:`Classifier`, with some of its convolutions swapped."""
    model = dict(backbone=backbone, channels=channels, **options)
    if not swaps:
        return dict(type=Classifier, **model)
    return dict(type="SwapConv", target=Classifier, swaps=list(swaps), **model)
