"""Differentiable kernel evolution against its definition and hand-made cases."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmlearnconv.ops import dke_conv2d, dke_response, reference
from mmlearnconv.ops.depthwise import taps_to_kernels
from mmlearnconv.ops.dke import dke_taps
from tests.ops.op_testing import GEOMETRY, assert_same, double, make_input, output_size


def dke_inputs(geometry, interpolation, shared=False):
    _, stride, padding, dilation, groups, out = geometry
    x = make_input()
    window = (9, 9)
    wide = tuple(p + d * 3 for p, d in zip(padding, dilation, strict=True))
    points = 5
    positions = torch.randn(1 if shared else 4, points, 2, **double)
    positions = (positions.clamp(-2, 2).floor() + 0.3 + 0.3 * torch.rand_like(positions)).detach()
    size = output_size(x, window, stride, wide, dilation)
    weight = torch.randn(out, 4 // groups, points, **double, requires_grad=True)
    attention = torch.randn(2, points, *size, **double, requires_grad=True)
    return x, weight, positions.requires_grad_(), attention, window, wide


@GEOMETRY
@pytest.mark.parametrize("interpolation", ["gauss", "bilinear"])
@pytest.mark.parametrize("attends", [True, False])
def test_equals_its_definition(geometry, interpolation, attends, path):
    x, weight, positions, attention, window, padding = dke_inputs(geometry, interpolation)
    _, stride, _, dilation, groups, _ = geometry

    def call(function):
        return lambda x, weight, positions, attention: function(
            *(x, weight, positions, window, None, stride, padding, dilation, groups),
            attention=attention,
            interpolation=interpolation,
        )

    tensors = x, weight, positions, attention if attends else None
    assert_same(call(dke_conv2d), call(reference.dke_conv2d), tensors)


@pytest.mark.parametrize("window", [(9, 9), (8, 10)])
@pytest.mark.parametrize(
    ("interpolation", "radius"), [("gauss", 2.0), ("gauss", 1.3), ("bilinear", 0)]
)
def test_taps_are_the_response(window, interpolation, radius):
    """On whole cells and half-way between them too."""
    y = torch.cat([torch.randn(3, 6, 2, **double), torch.randint(-4, 5, (3, 6, 2)) / 2], 1)
    y = y.clamp(-2, 2)
    values, cells = dke_taps(y, window, interpolation, 2.0, radius)
    response = reference.dke_response(y, window, interpolation, 2.0, radius)
    torch.testing.assert_close(taps_to_kernels(values, cells, window), response)


@pytest.mark.parametrize("function", [dke_response, reference.dke_response])
def test_gradient_agreement(function):
    """dG/dy = 2 alpha G (s - y), written out by hand: C is a constant (Eq. 15)."""
    alpha = 2.0
    y = torch.tensor([0.3, -0.6], **double, requires_grad=True)
    cells = torch.tensor(list(itertools.product(range(-4, 5), repeat=2)), **double)
    bell = torch.tensor(
        [
            math.exp(-alpha * math.dist(s.tolist(), y.tolist()) ** 2)
            * (math.dist(s.tolist(), y.tolist()) <= 2)
            for s in cells
        ]
    ).double()
    g = bell / bell.sum()
    response = function(y, (9, 9), "gauss", alpha, 2.0)
    torch.testing.assert_close(response.flatten(), g)
    for cell, value, location in zip(response.flatten(), g, cells, strict=True):
        (slope,) = torch.autograd.grad(cell, y, retain_graph=True)
        torch.testing.assert_close(slope, 2 * alpha * value * (location - y.detach()))


@pytest.mark.parametrize("padding", [(1, 2), (4, 4)])
def test_bilinear_on_the_grid_equals_a_convolution(padding, path):
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    grid = torch.tensor(list(itertools.product((-1, 0, 1), repeat=2)), **double).expand(4, 9, 2)
    arguments = x, weight.flatten(2), grid, (9, 9), None, 1, padding, 1, 2
    ours = dke_conv2d(*arguments, interpolation="bilinear")
    kernel = F.pad(weight, (3, 3, 3, 3))
    torch.testing.assert_close(ours, F.conv2d(x, kernel, None, 1, padding, 1, 2))
