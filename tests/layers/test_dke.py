"""DKE: options and starts beyond the contract."""

import itertools
from unittest import mock

import pytest
import torch
from torch import nn

from mmlearnconv.layers import DKEConv2d
from mmlearnconv.surgery import build_conv


def test_positions_start_as_published_and_are_clamped():
    conv = DKEConv2d(512, 4, 3)
    assert conv.positions.shape == (512, 9, 2)
    assert abs(conv.positions.std() - 1) < 0.05
    conv.positions.data.fill_(9.0)
    conv.positions.grad = torch.zeros_like(conv.positions)
    torch.optim.SGD(conv.parameters(), lr=0.1).step()
    assert conv.positions.max() == 4


def test_acu_is_the_baseline_of_the_paper():
    conv = build_conv(dict(type="ACU"), 4, 8, 3)
    assert conv.positions.shape == (1, 9, 2)
    assert (conv.interpolation, conv.attention) == ("bilinear", False)
    grid = list(itertools.product((-1.0, 0.0, 1.0), repeat=2))
    assert [tuple(p) for p in conv.positions[0].tolist()] == grid


def test_points_are_an_option():
    assert DKEConv2d(4, 8, 5, points=9).weight.shape == (8, 4, 9)
    assert DKEConv2d(4, 8, 5).weight.shape == (8, 4, 25)


def test_fewer_points_take_the_largest_taps_of_a_channel():
    plain = nn.Conv2d(1, 2, 3, bias=False).double()
    plain.weight.data.zero_()
    plain.weight.data[0, 0, 0, 2], plain.weight.data[1, 0, 2, 1] = 3.0, -4.0
    plain.weight.data[0, 0, 1, 1] = 1.0
    conv = DKEConv2d(
        1, 2, 3, bias=False, points=2, interpolation="bilinear", attention=False
    ).double()
    conv.load_state_dict(plain.state_dict())
    kernel = conv.dense_kernel()[:, 0]
    middle = kernel.shape[-1] // 2
    expected = plain.weight.data[:, 0].clone()
    expected[0, 1, 1] = 0
    torch.testing.assert_close(
        kernel[:, middle - 1 : middle + 2, middle - 1 : middle + 2], expected
    )


def scores_of(conv, x):
    """What the layer hands to its operation as attention."""
    with mock.patch("mmlearnconv.layers.dke.dke_conv2d") as operation:
        conv(x)
    return operation.call_args.kwargs["attention"]


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_scores_are_of_the_output_location(padding, stride):
    """An input that is one at one location scores the output whose window is centred on it."""
    conv = DKEConv2d(1, 1, 3, stride=stride, padding=padding).double()
    nn.init.ones_(conv.attention_weight)
    nn.init.zeros_(conv.attention_bias)
    for row in range(padding and 1, 7):
        x = torch.zeros(1, 1, 9, 9, dtype=torch.double)
        x[..., row, row] = 1
        scores = scores_of(conv, x)[0, 0]
        assert scores.shape == nn.Conv2d(1, 1, 3, stride, padding)(x.float()).shape[2:]
        location = row + padding - 1
        if location < 0 or location % stride or location // stride >= len(scores):
            assert scores.sum() == 0
        else:
            assert scores[location // stride, location // stride] == 1
            assert scores.sum() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(interpolation="cubic"),
        dict(position_init="zero"),
        dict(alpha=0),
        dict(radius=0.5),
        dict(points=0),
        dict(position_limit=-1),
    ],
    ids=str,
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DKEConv2d(4, 4, 3, **wrong)
