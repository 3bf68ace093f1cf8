"""How many channels a network's images have."""

import pytest
import torch
from torch import nn

from mmlearnconv.analysis import count_complexity, input_channels
from mmlearnconv.layers import DRConv2d


class Trade(nn.Module):
    """Four pixels for four times the channels, as YOLOX's first step."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, 8, 3)

    def forward(self, x):
        return self.conv(nn.functional.pixel_unshuffle(x, 2))


class Coordinates(nn.Module):
    """Two channels of its own beside the image's."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels + 2, 8, 3)

    def forward(self, x):
        return self.conv(torch.cat([x, x[:, :1], x[:, :1]], 1))


class Patches(nn.Module):
    """A matrix product over patches."""

    def __init__(self, channels):
        super().__init__()
        self.product = nn.Linear(16 * channels, 8)

    def forward(self, x):
        return self.product(nn.functional.unfold(x, 4, stride=4).mT)


class Normalised(nn.Module):
    """A norm, which takes the image, before the first layer, and a layer that takes no image."""

    def __init__(self, channels):
        super().__init__()
        self.places = nn.Linear(2, 4)
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 8, 3)

    def forward(self, x):
        return self.conv(self.norm(x)) + self.places(torch.zeros(1, 2)).sum()


def built_in_another_order(channels):
    """Modules are registered in another order than they run in."""
    network = nn.Sequential()
    network.add_module("last", nn.Conv2d(8, 8, 3))
    first = nn.Conv2d(channels, 8, 3)
    network.last, network.first = network.last, first
    network.forward = lambda x: network.last(network.first(x))
    return network


KINDS = (
    lambda channels: nn.Conv2d(channels, 8, 3),
    lambda channels: DRConv2d(channels, 8, 3),
    Trade,
    Coordinates,
    Patches,
    Normalised,
    built_in_another_order,
)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_tells(kind, channels):
    assert input_channels(kind(channels)) == channels


def test_costs_are_those_of_the_network_s_own_channels():
    for channels in (1, 4):
        counted = count_complexity(nn.Conv2d(channels, 8, 3, padding=1), (16, 16))
        assert counted.macs == 16 * 16 * 8 * channels * 9


def test_no_layer_no_answer():
    assert input_channels(nn.ReLU()) == 3
