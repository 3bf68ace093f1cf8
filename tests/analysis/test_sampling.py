"""Sampling points against outputs computed from them, and against the support of gradients."""

import pytest
import torch
from torch import nn

from mmlearnconv.analysis import SamplingPoints
from mmlearnconv.analysis.sampling import sampler_of
from mmlearnconv.catalog import CATALOG
from mmlearnconv.layers import (
    CondConv2d,
    DCLSConv2d,
    DeformableKernelConv2d,
    DKEConv2d,
    DRConv2d,
    Involution2d,
)
from mmlearnconv.surgery import build_conv

LOCATIONS = torch.tensor([[0, 0], [2, 3], [1, 4]])


def shares_of(layer):
    return torch.ones(len(LOCATIONS), layer.out_channels, dtype=layer.weight.dtype)


def cells_read(points, size, dilation=1, first=(0, 0)):
    """The cells of the map that bilinear interpolation reads, on a lattice from a first cell."""
    read = torch.zeros(size, dtype=torch.bool)
    for y, x in ((points - torch.tensor(first)) / dilation).tolist():
        for i in range(int(y // 1), int(y // 1) + 2):
            for j in range(int(x // 1), int(x // 1) + 2):
                share = (1 - abs(y - i)) * (1 - abs(x - j))
                row, column = first[0] + dilation * i, first[1] + dilation * j
                if share > 1e-9 and 0 <= row < size[0] and 0 <= column < size[1]:
                    read[row, column] = True
    return read


def support(module, x, row, column):
    """The cells that a feature's gradient reaches."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[0, :, row, column].square().sum(), x)
    return gradient[0].abs().sum(0) > 1e-12


STATIC = {
    "conv": lambda *a, **k: nn.Conv2d(*a, **k),
    "grouped": lambda *a, **k: nn.Conv2d(*a, groups=2, **k),
    "dcls": lambda *a, **k: DCLSConv2d(*a, **k),
    "dcls depthwise": lambda *a, **k: DCLSConv2d(*a, groups=4, **k),
    "acu": lambda *a, **k: DKEConv2d(
        *a, interpolation="bilinear", attention=False, shared_positions=True, **k
    ),
    "dke": lambda *a, **k: DKEConv2d(*a, interpolation="bilinear", attention=False, **k),
    "coc": lambda *a, **k: build_conv(dict(type="CoC"), *a, **k),
}


@pytest.mark.parametrize("geometry", [{}, dict(stride=2, padding=1), dict(padding=2, dilation=2)])
@pytest.mark.parametrize("kind", STATIC)
def test_static_layers_read_the_cells_that_the_gradient_reaches(kind, geometry):
    torch.manual_seed(0)
    layer = STATIC[kind](4, 4, 3, **geometry).double()
    x = torch.randn(1, 4, 11, 13, dtype=torch.double)
    points, weights = sampler_of(layer)(LOCATIONS, shares_of(layer), x)
    assert points.shape == (*weights.shape, 2)
    stride, padding, dilation = (
        geometry.get(name, default)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    for location, at in zip(LOCATIONS.tolist(), points, strict=True):
        first = tuple(n * stride - padding for n in location)
        read = cells_read(at, (11, 13), dilation, first)
        assert torch.equal(read, support(layer, x, *location))


def test_an_element_s_point_by_hand():
    layer = DCLSConv2d(1, 1, 3, stride=2, padding=1, dilation=2, kernel_count=1).double()
    layer.positions.data[:, 0, 0, 0] = torch.tensor([-1.25, 0.5])
    layer.weight.data.fill_(-3)
    points, weights = layer.sampling(
        torch.tensor([[2, 1]]), torch.full((1, 1), 2.0).double(), torch.zeros(1, 1, 9, 9).double()
    )
    # A 7x7 window of dilation 2 reaches 2 * 2 cells beyond the 3x3 one, whose padding is 1.
    # The window's middle is at 2 * 2 - 1 - 4 + 2 * 3 = 5 and 2 * 1 - 1 - 4 + 2 * 3 = 3.
    assert torch.allclose(points[0, 0], torch.tensor([5 - 2.5, 3 + 1.0]).double(), atol=1e-6)
    assert weights.tolist() == [[6.0]]


def interpolated(x, points):
    """(C, P): bilinear interpolation, zero outside."""
    out = x.new_zeros(x.shape[1], len(points))
    for k, (y, x_) in enumerate(points.tolist()):
        for i in range(int(y // 1), int(y // 1) + 2):
            for j in range(int(x_ // 1), int(x_ // 1) + 2):
                if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                    out[:, k] += (1 - abs(y - i)) * (1 - abs(x_ - j)) * x[0, :, i, j]
    return out


@pytest.mark.parametrize("data_offset", [False, True])
@pytest.mark.parametrize("mode", ["local", "global"])
def test_points_and_kernels_of_dk_give_its_output(mode, data_offset):
    torch.manual_seed(0)
    options = dict(mode=mode, data_offset=data_offset, num_experts=2)
    layer = DeformableKernelConv2d(2, 3, 3, 2, 1, 2, **options).double()
    for name, parameter in layer.named_parameters():
        if "offset" in name or "routing" in name:
            nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 2, 9, 9, dtype=torch.double)
    points, weights = layer.sampling(LOCATIONS[:2], shares_of(layer)[:2], x)
    kernels = layer._kernels_at(LOCATIONS[:2], x)
    assert torch.allclose(weights, kernels.abs().sum((1, 2)).flatten(1))
    y = layer(x)
    for number, (row, column) in enumerate(LOCATIONS[:2].tolist()):
        read = interpolated(x, points[number])
        expected = torch.einsum("oik,ik->o", kernels[number].flatten(2), read) + layer.bias
        assert torch.allclose(y[0, :, row, column], expected)


def test_kernels_of_involution_and_condconv_give_their_outputs():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 9, 9, dtype=torch.double)
    mixed = CondConv2d(4, 4, 3, padding=1, num_experts=3).double()
    nn.init.normal_(mixed.routing_weight)
    generated = Involution2d(4, 4, 3, padding=1, group_channels=4).double().eval()
    for layer in (mixed, generated):
        points, _ = layer.sampling(LOCATIONS, shares_of(layer), x)
        kernels = layer._kernels_at(LOCATIONS, x)
        kernels = kernels.expand(len(LOCATIONS), *kernels.shape[1:])
        y = layer(x)
        for number, (row, column) in enumerate(LOCATIONS.tolist()):
            read = interpolated(x, points[number])
            kernel = kernels[number].flatten(-2)
            formula = "oik,ik->o" if layer is mixed else "iok,ik->i"
            expected = torch.einsum(formula, kernel, read) + layer.bias
            assert torch.allclose(y[0, :, row, column], expected)


@pytest.mark.parametrize("hidden", [3, 6])
def test_drconv_shows_the_filter_of_the_location_s_region(hidden):
    torch.manual_seed(0)
    layer = DRConv2d(2, 4, 3, padding=1, regions=3, hidden_channels=hidden).double()
    nn.init.normal_(layer.filter_scale)
    x = torch.randn(1, 2, 6, 7, dtype=torch.double)
    guide = torch.full((1, 3, 6, 7), -1.0, dtype=torch.double)
    guide[0, 1, 2, 3] = guide[0, 2, 1, 4] = guide[0, 0, 0, 0] = 1
    own = DRConv2d(2, 4, 3, padding=1, regions=3, hidden_channels=hidden, own_guide=False).double()
    own.load_state_dict(layer.state_dict(), strict=False)
    points, weights = own.sampling(LOCATIONS, shares_of(own), x, guide)
    for location, region, at, weight in zip(LOCATIONS, (0, 1, 2), points, weights, strict=True):
        kernel = own._filters(own._hidden(x))[0, region] + own.weight
        assert torch.allclose(weight, kernel.abs().sum((0, 1)).flatten())
        y = torch.einsum("oik,ik->o", kernel.flatten(2), interpolated(x, at)) + own.bias
        assert torch.allclose(own(x, guide)[0, :, location[0], location[1]], y)


def test_dke_scores_weigh_its_points():
    torch.manual_seed(0)
    layer = DKEConv2d(2, 3, 3, padding=1, interpolation="bilinear").double()
    nn.init.normal_(layer.attention_weight)
    x = torch.randn(1, 2, 9, 9, dtype=torch.double)
    nn.init.uniform_(layer.weight, 0, 1)  # So that weights are not only absolute values.
    points, weights = layer.sampling(LOCATIONS, shares_of(layer), x)
    scores = layer._scores(*_padded_and_padding(layer, x))[0]
    for location, at, weight in zip(LOCATIONS.tolist(), points, weights, strict=True):
        score = scores[:, location[0], location[1]]
        assert torch.allclose(weight.unflatten(0, (2, 9)), layer.weight.sum(0) * score.abs())
        read = interpolated(x, at).unflatten(1, (2, 9))
        own = torch.stack([read[c, c] for c in range(2)])
        expected = torch.einsum("ock,ck,k->o", layer.weight, own, score) + layer.bias
        assert torch.allclose(layer(x)[0, :, location[0], location[1]], expected)


def _padded_and_padding(layer, x):
    padded, geometry = layer._padded(x, layer.window)
    return padded, geometry.padding


@pytest.mark.parametrize(("groups", "deform_groups"), [(1, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_mmcv_s_deformable_convolutions(kind, groups, deform_groups):
    pytest.importorskip("mmcv.ops")  # Registers DCN and DCNv2.
    torch.manual_seed(0)
    options = dict(stride=2, padding=1, groups=groups, deform_groups=deform_groups, bias=False)
    layer = build_conv(dict(type=kind), 4, 6, 3, **options)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    nn.init.uniform_(layer.weight, 0, 1)
    # The sum over the output channels, with weights summed likewise, is what the points give if
    # every input channel of a deformable group holds the same.
    x = torch.rand(1, deform_groups, 9, 9).repeat_interleave(4 // deform_groups, 1)
    points, weights = sampler_of(layer)(LOCATIONS, shares_of(layer), x)
    y = layer(x)
    for location, at, weight in zip(LOCATIONS.tolist(), points, weights, strict=True):
        read = interpolated(x, at)[:: 4 // deform_groups].unflatten(1, (deform_groups, 9))
        own = torch.stack([read[g, g] for g in range(deform_groups)])
        expected = (own.flatten() * weight).sum()
        assert torch.allclose(y[0, :, location[0], location[1]].sum(), expected, atol=1e-4)


class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = DCLSConv2d(3, 4, 3, padding=1)
        self.second = DKEConv2d(
            4, 4, 3, stride=2, padding=1, interpolation="bilinear", attention=False
        )
        self.shortcut = nn.Conv2d(4, 4, 1, stride=2)
        self.third = nn.Conv2d(4, 5, 3, padding=1)
        self.aside = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        self.aside(x)
        # In place: what the first layer gave is overwritten.
        x = nn.functional.leaky_relu_(self.first(x), 0.1)
        return self.third(nn.functional.softplus(self.second(x) + self.shortcut(x)))


def test_points_of_stacked_layers_are_the_support_of_the_gradient():
    torch.manual_seed(0)
    model = Stacked().double()
    image = torch.randn(3, 24, 28, dtype=torch.double)
    looked = SamplingPoints(model, image)
    found = looked.of("third", (4, 9))
    assert list(found) == ["first", "second", "third"]
    points, weights = found["first"]
    read = cells_read(points[weights > 0], (24, 28))
    assert torch.equal(read, support(model, image[None], 4, 9))
    # A limit keeps the strongest.
    few = looked.of("third", (4, 9), limit=100)["first"]
    strongest = weights.topk(100).values
    assert torch.allclose(few.weights, strongest)


def test_points_of_a_coarse_map_are_pixels_of_the_image():
    model = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 2, 3, padding=1))
    nn.init.ones_(model[1].weight)
    found = SamplingPoints(model, torch.ones(3, 32, 32)).of("1", (2, 3))
    points = found["1"].points
    # Cell (2, 3) covers pixels 8 to 11 and 12 to 15: its centre is (9.5, 13.5).
    assert points[4].tolist() == [9.5, 13.5]
    assert points[0].tolist() == [5.5, 9.5]


def test_every_operator_of_the_catalogue_has_points():
    for operator in CATALOG:
        if operator.layer.spatial_dims != 2:
            continue
        layer = operator.build(4, 8, 3, padding=1).eval()
        image = torch.randn(4, 8, 8)
        found = SamplingPoints(nn.Sequential(layer), image).of("0", (3, 3))
        assert found["0"].weights.isfinite().all(), operator.name


@pytest.mark.parametrize(
    ("layer", "location", "message"),
    [
        ("none", (0, 0), "'none' is no module"),
        ("third", (40, 0), r"location: \(40, 0\) is not in the layer's output of 12 x 14"),
        ("other", (0, 0), "does not run"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(layer, location, message):
    model = Stacked()
    model.other = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match=message):
        SamplingPoints(model, torch.zeros(3, 24, 28), [layer]).of(layer, location)
