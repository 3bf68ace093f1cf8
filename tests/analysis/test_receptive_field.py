"""Effective receptive fields against networks whose own is known."""

import math

import pytest
import torch
from torch import nn

from mmlearnconv.analysis import areas, centred, contribution
from mmlearnconv.layers import DCLSConv2d


def box(kernel, dilation=1, stride=1):
    """A convolution with positive weights: all of its window contributes."""
    conv = nn.Conv2d(1, 1, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def support(scores):
    rows, columns = scores.nonzero().unbind(1)
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


@pytest.mark.parametrize(("dilation", "reach"), [(1, 1), (3, 3)])
def test_a_convolution_sees_its_window(dilation, reach):
    scores = contribution(box(3, dilation), torch.ones(1, 21, 21))
    assert support(scores) == (10 - reach, 10 + reach, 10 - reach, 10 + reach)
    assert scores.sum() == 9


def test_stacked_convolutions_add_their_reach_and_weight_the_centre_most():
    scores = contribution(nn.Sequential(box(3), box(3)), torch.ones(1, 21, 21))
    row = torch.tensor([1.0, 2, 3, 2, 1])
    torch.testing.assert_close(scores[8:13, 8:13], torch.outer(row, row))


def test_a_feature_that_is_negative_has_no_contribution():
    assert contribution(box(3), -torch.ones(1, 9, 9)).sum() == 0


def test_a_layer_inside_and_a_point_of_the_image():
    model = nn.Sequential(box(3, stride=2), box(3, stride=2))
    # Feature (2, 4) of the first layer sees pixels 3 to 5 and 7 to 9.
    scores = contribution(model, torch.ones(1, 20, 20), model[0], (4.5, 8.0))
    assert support(scores) == (3, 5, 7, 9)


def test_dcls_sees_its_positions():
    conv = DCLSConv2d(1, 1, 3, padding=1, dilated_kernel_size=9, kernel_count=2, bias=False)
    conv = conv.double()
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.positions[0].copy_(torch.tensor([[[-3.0, 2.5]]]))
        conv.positions[1].copy_(torch.tensor([[[0.0, -4.0]]]))
    scores = contribution(conv, torch.ones(1, 21, 21, dtype=torch.double))
    expected = torch.zeros_like(scores)
    expected[7, 10] = 1
    expected[12, 6] = expected[13, 6] = 0.5
    torch.testing.assert_close(scores, expected)


def test_a_layer_that_does_not_run_and_one_without_a_map_are_named():
    model = nn.Sequential(box(3), nn.Flatten())
    with pytest.raises(ValueError, match="the layer Conv2d does not run in Sequential"):
        contribution(model, torch.ones(1, 9, 9), box(3))
    with pytest.raises(ValueError, match=r"Sequential is \(1, 81\); must be \(N, C, H, W\)"):
        contribution(model, torch.ones(1, 9, 9))


def test_centred_moves_a_point_to_the_centre():
    scores = torch.arange(30.0).view(5, 6)
    moved = centred(scores, (1.0, 5.0))
    assert moved[2, 3] == scores[1, 5]
    assert moved[0].sum() == 0
    assert (moved[:, 4:] == 0).all()
    assert torch.equal(moved[1:, :4], scores[:4, 2:])
    assert torch.equal(centred(scores, (2, 3)), scores)


def test_areas_of_a_flat_map_are_its_shares():
    """A square of side s holds s^2 / 101^2 of it."""
    for area, share in zip(areas(torch.ones(101, 101)), (0.2, 0.3, 0.5, 0.99), strict=True):
        side = next(s for s in range(3, 103, 2) if s**2 > share * 101**2)
        if side > 99:
            assert area is None
        else:
            assert area.side == side
            assert math.isclose(area.ratio, side**2 / 101**2)


def test_areas_count_logarithms():
    """99 in the centre's 3 x 3 and 9 on the ring about it: 18 of 34 in logarithms."""
    scores = torch.zeros(21, 21)
    scores[8:13, 8:13] = 9
    scores[9:12, 9:12] = 99
    (half, most) = areas(scores, (0.5, 0.6))
    assert half.side == 3
    assert most.side == 5
