"""The fast operations against their definitions, and the definitions against hand-made cases."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmlearnconv.ops import (
    associate_kernels,
    condconv2d,
    dk_conv2d,
    dke_conv2d,
    dke_response,
    dke_taps,
    drconv2d,
    drconv2d_factorised,
    per_image,
    reference,
    standardize,
)
from mmlearnconv.ops import dk as dk_module

double = dict(dtype=torch.double)
# kernel size, stride, padding, dilation, groups, out
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 6),
    ((3, 3), (2, 1), (0, 2), (1, 2), 2, 6),
    ((1, 1), (1, 1), (0, 0), (1, 1), 1, 3),
    ((2, 3), (2, 2), (1, 0), (2, 1), 4, 4),
]
GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def make_input(batch=2, channels=4):
    return torch.randn(batch, channels, 8, 9, **double, requires_grad=True)


def output_size(x, kernel, stride, padding, dilation):
    one = torch.zeros(1, 1, *kernel, **double)
    return F.conv2d(x[:1, :1], one, None, stride, padding, dilation).shape[2:]


def assert_same(function, definition, tensors, tolerance=1e-10):
    """Equal outputs and gradients."""
    ours, expected = function(*tensors), definition(*tensors)
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    seen = torch.randn_like(expected)
    used = [t for t in tensors if t is not None]
    for a, b in zip(
        torch.autograd.grad(ours, used, seen, allow_unused=True),
        torch.autograd.grad(expected, used, seen, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def dk_inputs(geometry, scope, local, data):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    size = output_size(x, kernel, stride, padding, dilation)
    taps = 2 * kernel[0] * kernel[1]
    # Away from the interpolant's kinks, some beyond the kernel space.
    offsets = torch.randn(2, taps, *(size if local else (1, 1)), **double)
    offsets = (offsets.floor() + 0.2 + 0.2 * torch.rand_like(offsets)).requires_grad_()
    weight = torch.randn(out, 4 // groups, *scope, **double, requires_grad=True)
    moved = None
    if data:
        moved = torch.randn(2, taps, *size, **double)
        moved = (moved.floor() + 0.2 + 0.6 * torch.rand_like(moved)).requires_grad_()
    return x, weight, offsets, moved


@GEOMETRY
@pytest.mark.parametrize("scope", [(4, 4), (3, 5)])
@pytest.mark.parametrize(
    ("local", "data"), [(True, True), (True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize("tile", [1, 2**22])
def test_dk(geometry, scope, local, data, tile, monkeypatch):
    monkeypatch.setattr(dk_module, "_TILE", tile)
    monkeypatch.setattr(per_image, "_CHUNK", tile)
    x, weight, offsets, moved = dk_inputs(geometry, scope, local, data)
    kernel, stride, padding, dilation, groups, _ = geometry

    def call(function):
        return lambda x, w, o, g: function(
            x, w, o, kernel, stride, padding, dilation, groups, data_offsets=g
        )

    assert_same(call(dk_conv2d), call(reference.dk_conv2d), (x, weight, offsets, moved))


@pytest.mark.parametrize("data", [True, False])
def test_dk_gradcheck(data):
    geometry = (*GEOMETRIES[0][:5], 2)
    x, weight, offsets, moved = dk_inputs(geometry, (4, 4), True, data)
    inputs = [
        t[..., :4, :4].detach().requires_grad_() if t is not None and t is not weight else t
        for t in (x, weight, offsets, moved)
    ]

    def function(*tensors):
        return dk_conv2d(*tensors[:3], *geometry[:5], *tensors[3:])

    assert gradcheck(function, inputs if data else inputs[:3])


def test_dk_by_hand():
    """A tap moved by (0.5, -0.25) in a 4x4 space reads a mixture of four cells."""
    weight = torch.arange(16.0, **double).view(1, 1, 4, 4)
    offsets = torch.zeros(1, 18, 1, 1, **double)
    offsets[0, 8:10, 0, 0] = torch.tensor([0.5, -0.25])
    b = reference.dk_coefficients(offsets, (3, 3), (4, 4))[0, :, :, 0, 0]
    # The middle tap sits at (1.5, 1.5), so at (2, 1.25) now.
    assert (b[4] @ weight.flatten()).item() == 0.75 * 9 + 0.25 * 10
    # An unmoved corner averages its four cells.
    assert (b[0] @ weight.flatten()).item() == (0 + 1 + 4 + 5) / 4
    offsets[0, 0] = -7
    b = reference.dk_coefficients(offsets, (3, 3), (4, 4))[0, :, :, 0, 0]
    assert (b[0] @ weight.flatten()).item() == (0 + 1) / 2


def test_dk_derivative_at_integers_is_one_sided_into_the_space():
    """The right-hand one, but at the last cell, where it would hold the position for ever."""
    weight = torch.randn(3, **double)
    positions = torch.tensor([0.0, 1.0, 2.0], **double, requires_grad=True)
    values = reference.linear_coefficients(positions, 3) @ weight
    (slopes,) = torch.autograd.grad(values.sum(), positions)
    last = weight[2] - weight[1]
    expected = torch.stack([weight[1] - weight[0], last, last])
    torch.testing.assert_close(slopes, expected)


def test_dk_equals_a_convolution_at_zero_offsets_and_scope_k():
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    for shape in ((1, 1), (8, 9)):
        offsets = torch.zeros(2, 18, *shape, **double)
        ours = dk_conv2d(x, weight, offsets, (3, 3), (1, 1), (1, 1), (1, 1), 2)
        torch.testing.assert_close(ours, F.conv2d(x, weight, None, 1, 1, 1, 2))


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
def test_dke(geometry, interpolation, attends):
    x, weight, positions, attention, window, padding = dke_inputs(geometry, interpolation)
    _, stride, _, dilation, groups, _ = geometry

    geometry = stride, padding, dilation, groups

    def ours(x, weight, positions, attention):
        taps = dke_taps(positions, window, interpolation, 2.0, 2.0)
        return dke_conv2d(x, weight, *taps, window, *geometry, attention)

    def definition(x, weight, positions, attention):
        response = dke_response(positions, window, interpolation, 2.0, 2.0)
        return reference.dke_conv2d(x, weight, response, *geometry, attention)

    assert_same(ours, definition, (x, weight, positions, attention if attends else None))


@pytest.mark.parametrize("window", [(9, 9), (8, 10)])
@pytest.mark.parametrize(
    ("interpolation", "radius"), [("gauss", 2.0), ("gauss", 1.3), ("bilinear", 0)]
)
def test_dke_taps_are_the_response(window, interpolation, radius):
    """On whole cells and half-way between them too."""
    y = torch.cat([torch.randn(3, 6, 2, **double), torch.randint(-4, 5, (3, 6, 2)) / 2], 1)
    y = y.clamp(-2, 2)
    values, cells = dke_taps(y, window, interpolation, 2.0, radius)
    response = dke_response(y, window, interpolation, 2.0, radius)
    torch.testing.assert_close(reference.dense_taps(values, cells, window), response)


def test_dke_gradient_agreement():
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
    response = dke_response(y, (9, 9), "gauss", alpha, 2.0)
    torch.testing.assert_close(response.flatten(), g)
    for cell, value, place in zip(response.flatten(), g, cells, strict=True):
        (slope,) = torch.autograd.grad(cell, y, retain_graph=True)
        torch.testing.assert_close(slope, 2 * alpha * value * (place - y.detach()))


@pytest.mark.parametrize("padding", [(1, 2), (4, 4)])
def test_dke_bilinear_on_the_grid_equals_a_convolution(padding):
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    grid = torch.tensor(list(itertools.product((-1, 0, 1), repeat=2)), **double).expand(4, 9, 2)
    taps = dke_taps(grid, (9, 9), "bilinear", 0.0, 0.0)
    ours = dke_conv2d(x, weight.flatten(2), *taps, (9, 9), (1, 1), padding, (1, 1), 2)
    kernel = F.pad(weight, (3, 3, 3, 3))
    torch.testing.assert_close(ours, F.conv2d(x, kernel, None, 1, padding, 1, 2))


@pytest.mark.parametrize(("association", "out"), [(2, 8), (2, 6), (3, 10), (4, 16)])
@pytest.mark.parametrize("skip", [True, False])
def test_coc_by_hand(association, out, skip):
    """Each cell of the sheet, summed over the super kernel's taps, one by one."""
    sheets = math.ceil(out / association**2)
    weight = torch.randn(out, 3, 2, 3, **double)
    super_weight = torch.randn(1, sheets, 3, 3, **double)
    ours = associate_kernels(weight, super_weight, association, (2, 2), skip)
    height, width = association * 2, association * 3

    def cell(sheet, channel, row, column):
        if not (0 <= row < height and 0 <= column < width):
            return 0.0
        number = sheet * association**2 + row // 2 * association + column // 3
        return weight[number, channel, row % 2, column % 3].item() if number < out else 0.0

    for number, channel, row, column in itertools.product(range(out), range(3), range(2), range(3)):
        sheet, place = divmod(number, association**2)
        y = place // association * 2 + row
        x = place % association * 3 + column
        expected = cell(sheet, channel, y, x) if skip else 0.0
        for u, v in itertools.product(range(3), repeat=2):
            tap = super_weight[0, sheet, u, v].item()
            expected += tap * cell(sheet, channel, y + 2 * (u - 1), x + 2 * (v - 1))
        assert ours[number, channel, row, column].item() == pytest.approx(expected)


def test_coc_gradcheck():
    weight = torch.randn(6, 2, 3, 3, **double, requires_grad=True)
    super_weight = torch.randn(2, 2, 3, 3, **double, requires_grad=True)
    assert gradcheck(lambda w, s: associate_kernels(w, s, 2, (2, 2), True), (weight, super_weight))


def test_standardize():
    weight = torch.randn(4, 3, 3, 3, **double, requires_grad=True)
    gain, mean = (torch.randn(4, **double, requires_grad=True) for _ in range(2))
    kernel = standardize(weight, gain, mean).flatten(1)
    torch.testing.assert_close(kernel.mean(1), mean)
    torch.testing.assert_close(kernel.std(1, correction=0), gain.abs(), rtol=1e-4, atol=0)
    assert gradcheck(standardize, (weight, gain, mean))


def test_convolution_per_image_is_an_operator_like_pytorch_s():
    """Compiled graphs hold it; without one it is PyTorch's convolution."""
    x, kernels = torch.randn(3, 4, 6, 5), torch.randn(3, 6, 2, 3, 3)
    arguments = x.requires_grad_(), kernels.requires_grad_(), [2, 1], [1, 1], [1, 2], 2
    torch.library.opcheck(torch.ops.mmlearnconv.conv2d_per_image.default, arguments)


def guide_like(x, geometry, regions=3):
    size = output_size(x, *geometry[:4])
    return torch.randn(x.shape[0], regions, *size, **double, requires_grad=True)


@GEOMETRY
def test_drconv(geometry):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    guide = guide_like(x, geometry)
    filters = torch.randn(2, 3, out, 4 // groups, *kernel, **double, requires_grad=True)

    def call(function):
        return lambda x, g, f: function(x, g, f, stride, padding, dilation, groups)

    assert_same(call(drconv2d), call(reference.drconv2d), (x, guide, filters))


@GEOMETRY
def test_drconv_factorised(geometry):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    guide = guide_like(x, geometry)
    pattern = torch.rand(2, 3, *kernel, **double, requires_grad=True)
    value, offset = (
        torch.randn(3, out, 4 // groups, **double, requires_grad=True) for _ in range(2)
    )
    rest = (stride, padding, dilation, groups)

    def definition(x, guide, pattern, value, offset):
        filters = value[..., None, None] * pattern[:, :, None, None] + offset[..., None, None]
        return reference.drconv2d(x, guide, filters, *rest)

    def ours(*tensors):
        return drconv2d_factorised(*tensors, *rest)

    assert_same(ours, definition, (x, guide, pattern, value, offset))


def test_drconv_guide_gradient_written_out():
    """Eq. 6-8 at every location, with numbers."""
    x, geometry = make_input(1), GEOMETRIES[0]
    guide = guide_like(x, geometry)
    filters = torch.randn(1, 3, 6, 4, 3, 3, **double)
    output = drconv2d(x, guide, filters, (1, 1), (1, 1), (1, 1), 1)
    seen = torch.randn_like(output)
    (ours,) = torch.autograd.grad(output, guide, seen)
    responses = [F.conv2d(x, filters[0, t], padding=1) for t in range(3)]
    for row, column in itertools.product(range(8), range(9)):
        logits = guide[0, :, row, column].tolist()
        picked = logits.index(max(logits))
        torch.testing.assert_close(output[0, :, row, column], responses[picked][0, :, row, column])
        soft = [math.exp(f) / sum(map(math.exp, logits)) for f in logits]
        inner = [float(seen[0, :, row, column] @ r[0, :, row, column]) for r in responses]
        mean = sum(s * i for s, i in zip(soft, inner, strict=True))
        expected = [s * (i - mean) for s, i in zip(soft, inner, strict=True)]
        assert ours[0, :, row, column].tolist() == pytest.approx(expected)


def test_drconv_gradcheck_of_all_but_the_guide():
    x = torch.randn(2, 2, 4, 4, **double, requires_grad=True)
    guide = torch.randn(2, 3, 4, 4, **double)
    pattern = torch.rand(2, 3, 3, 3, **double, requires_grad=True)
    value, offset = (torch.randn(3, 2, 2, **double, requires_grad=True) for _ in range(2))
    rest = ((1, 1), (1, 1), (1, 1), 1)
    assert gradcheck(
        lambda x, p, v, o: drconv2d_factorised(x, guide, p, v, o, *rest),
        (x, pattern, value, offset),
    )


def test_drconv_with_one_region_equals_a_convolution():
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    filters = weight.expand(2, 1, -1, -1, -1, -1)
    ours = drconv2d(x, torch.zeros(2, 1, 8, 9, **double), filters, (1, 1), (1, 1), (1, 1), 2)
    torch.testing.assert_close(ours, F.conv2d(x, weight, None, 1, 1, 1, 2))


@GEOMETRY
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_condconv(geometry, chunk, monkeypatch):
    monkeypatch.setattr(per_image, "_CHUNK", chunk)
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    experts = torch.randn(3, out, 4 // groups, *kernel, **double, requires_grad=True)
    routing = torch.rand(2, 3, **double, requires_grad=True)

    def call(function):
        return lambda x, e, r: function(x, e, r, stride, padding, dilation, groups)

    assert_same(call(condconv2d), call(reference.condconv2d), (x, experts, routing))
