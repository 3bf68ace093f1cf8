"""What is not a number, what lies on an edge, what does not fit, and what has no derivative."""

import pytest
import torch
from torch import nn

from mmlearnconv import ops
from mmlearnconv.ops import reference

NAN = float("nan")


def is_nan(found, expected):
    """Where ``found`` is NaN, which must be where ``expected`` is."""
    assert torch.equal(found.isnan(), expected.isnan())
    return found.isnan()


@pytest.mark.parametrize("kind", ["bilinear", "gauss", "triangle"])
@pytest.mark.parametrize("which", ["weight", "positions", "width"])
def test_dcls_element_that_is_no_number(path, kind, which):
    tensors = dict(
        weight=torch.randn(3, 2, 4),
        positions=torch.randn(2, 3, 2, 4),
        width=torch.rand(2, 3, 2, 4),
    )
    tensors[which][..., 1, 0, 2] = NAN
    if which == "width" and kind == "bilinear":
        return  # It has none.
    arguments = tensors["weight"], tensors["positions"], (5, 5), kind, tensors["width"]
    nan = is_nan(ops.dcls_kernel(*arguments), reference.dcls_kernel(*arguments))
    assert nan[1, 0].all()
    assert nan.sum() == 25


def test_dcls_gradient_of_an_element_that_is_no_number(path):
    weight, positions = torch.randn(1, 2, 3), torch.randn(2, 1, 2, 3)
    positions[0, 0, 1, 2] = NAN
    kernel = ops.dcls_kernel(weight.requires_grad_(), positions, (5, 5))
    (of_weight,) = torch.autograd.grad(kernel, weight, torch.ones_like(kernel))
    assert of_weight[0, 1, 2].isnan()
    assert of_weight[0, 0].isfinite().all()


def test_tap_value_that_is_no_number(path):
    """Also where its cell lies off the map."""
    x, values = torch.randn(2, 3, 4, 5), torch.randn(3, 2, 2)
    values[1, 1, 0] = NAN
    cells = torch.zeros(3, 2, 2, 2, dtype=torch.long)
    arguments = x, values, cells, (5, 5), None, (1, 1), (2, 2), (1, 1)
    nan = is_nan(ops.depthwise_taps(*arguments), reference.depthwise_taps(*arguments))
    assert nan[:, 3].all()
    assert not nan[:, :3].any()


@pytest.mark.parametrize("kind", ["gauss", "bilinear"])
def test_dke_position_that_is_no_number(path, kind):
    x, weight = torch.randn(2, 3, 7, 6), torch.randn(4, 3, 5)
    positions = torch.randn(3, 5, 2)
    positions[2, 1, 0] = NAN
    arguments = x, weight, positions, (9, 9), None, (1, 1), (4, 4), (1, 1), 1
    found = ops.dke_conv2d(*arguments, interpolation=kind)
    assert is_nan(found, reference.dke_conv2d(*arguments, interpolation=kind)).all()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("which", ["offsets", "data_offsets", "global"])
@pytest.mark.parametrize("number", [0, 17])
def test_dk_offset_that_is_no_number(path, groups, which, number):
    """At a corner, where the first tap lies off the map."""
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(4, 4 // groups, 4, 4)
    places = (1, 1) if which == "global" else (6, 5)
    offsets, data = torch.randn(2, 18, *places), torch.randn(2, 18, 6, 5)
    (data if which == "data_offsets" else offsets)[1, number, 0, 0] = NAN
    data = data if which == "data_offsets" else None
    arguments = x, weight, offsets, (3, 3), None, (1, 1), (1, 1), (1, 1), groups
    results = [f(*arguments, data_offsets=data) for f in (ops.dk_conv2d, reference.dk_conv2d)]
    nan = is_nan(*results)
    expected = torch.zeros(2, 6, 5, dtype=torch.bool)
    if which == "global":
        expected[1] = True
    else:
        expected[1, 0, 0] = True
    assert torch.equal(nan, expected[:, None].expand(-1, 4, -1, -1))


def test_data_offsets_far_beyond_the_map_read_zeros(path):
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3)
    offsets = torch.zeros(1, 18, 5, 5)
    for far in (float("inf"), -float("inf"), 1e30):
        data = torch.full_like(offsets, far)
        arguments = x, weight, offsets, (3, 3), None, (1, 1), (1, 1), (1, 1), 1
        for function in (ops.dk_conv2d, reference.dk_conv2d):
            assert (function(*arguments, data_offsets=data) == 0).all()


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("factorised", [False, True])
def test_guide_that_is_no_number(path, value, size, factorised):
    x, guide = torch.randn(2, 3, 6, 5), torch.randn(2, 4, 6, 5)
    guide[1, 2, 3, 4] = value
    geometry = None, (1, 1), (size // 2,) * 2, (1, 1), 1
    pattern, scale, shift = (
        torch.randn(2, 4, size, size),
        torch.randn(4, 6, 3),
        torch.randn(4, 6, 3),
    )
    filters = scale[..., None, None] * pattern[:, :, None, None] + shift[..., None, None]
    if factorised:
        found = ops.drconv2d_factorised(x, guide, pattern, scale, shift, *geometry)
    else:
        found = ops.drconv2d(x, guide, filters, *geometry)
    nan = is_nan(found, reference.drconv2d(x, guide, filters, *geometry))
    expected = torch.zeros(2, 6, 6, 5, dtype=torch.bool)
    expected[1, :, 3, 4] = True
    assert torch.equal(nan, expected)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("guide", [(2, 4, 8, 8), (2, 4, 17, 16), (1, 4, 16, 16)], ids=str)
def test_guide_of_another_size_is_refused_with_both(path, size, guide):
    x, guide = torch.randn(2, 3, 16, 16), torch.randn(guide)
    geometry = None, (1, 1), (size // 2,) * 2, (1, 1), 1
    message = rf"guide: shape \({', '.join(map(str, guide.shape))}\); .* N=2 and .*=\(16, 16\)"
    with pytest.raises(ValueError, match=message):
        ops.drconv2d(x, guide, torch.randn(2, 4, 5, 3, size, size), *geometry)
    factors = torch.randn(2, 4, size, size), torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    with pytest.raises(ValueError, match=message):
        ops.drconv2d_factorised(x, guide, *factors, *geometry)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("places", [(1, 1), (5, 6)], ids=["global", "local"])
def test_dk_offsets_on_the_edge_of_the_space_all_move(path, groups, places):
    """With a kernel space of the kernel's size, where the outer taps start on its edge."""
    weight = torch.randn(4, 4 // groups, 3, 3)
    offsets = torch.zeros(2, 18, *places, requires_grad=True)
    x = torch.randn(2, 4, 5, 6)
    ops.dk_conv2d(x, weight, offsets, 3, None, 1, 1, 1, groups).sum().backward()
    assert (offsets.grad.abs().sum((0, 2, 3)) > 0).all()


def test_dk_derivative_on_the_edges_points_into_the_space(path):
    """One channel, location and tap, on the last cell of each axis."""
    weight = torch.arange(9.0).view(1, 1, 3, 3).square().double()
    offsets = torch.ones(1, 2, 1, 1, dtype=torch.double, requires_grad=True)
    x = torch.ones(1, 1, 1, 1, dtype=torch.double)
    output = ops.dk_conv2d(x, weight, offsets, 1)
    (slopes,) = torch.autograd.grad(output.sum(), offsets)
    assert output.item() == 64
    assert slopes.flatten().tolist() == [64 - 25, 64 - 49]


# Called as layers call them. The gradients of DRConv's guide and DKE's Gaussian are definitions,
# not derivatives, and have no derivative themselves.
def second(function, tensors, create_graph=True):
    leaves = [t.double().requires_grad_() for t in tensors]
    grads = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=create_graph)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)


@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        (lambda w, p: ops.dcls_kernel(w, p, (5, 5)), [(2, 2, 3), (2, 2, 2, 3)]),
        (
            lambda x, v: ops.depthwise_taps(x, v, torch.ones(2, 1, 3, 2, dtype=torch.long), (3, 3)),
            [(1, 2, 5, 5), (2, 1, 3)],
        ),
        (
            lambda x, w, o: ops.dk_conv2d(x, w, o, 3, None, 1, 1, 1, 2),
            [(1, 2, 4, 4), (2, 1, 4, 4), (1, 18, 4, 4)],
        ),
        (
            lambda x, w, o: ops.dk_conv2d(x, w, o, 3, None, 1, 1),
            [(1, 2, 4, 4), (2, 2, 4, 4), (1, 18, 4, 4)],
        ),
        (
            lambda x, w, p: ops.dke_conv2d(x, w, p, (9, 9), None, 1, 4),
            [(1, 2, 4, 4), (2, 2, 3), (2, 3, 2)],
        ),
        (lambda p: ops.dke_response(p, (9, 9), "gauss", 2.0, 2.0), [(2, 3, 2)]),
        (
            lambda x, g, f: ops.drconv2d(x, g, f, None, 1, 1),
            [(1, 2, 4, 4), (1, 3, 4, 4), (1, 3, 2, 2, 3, 3)],
        ),
        (
            lambda x, g, *f: ops.drconv2d_factorised(x, g, *f, None, 1, 1),
            [(1, 2, 4, 4), (1, 3, 4, 4), (1, 3, 3, 3), (3, 2, 2), (3, 2, 2)],
        ),
        (ops.orthogonalize, [(3, 5)]),
    ],
    ids=[
        "dcls",
        "taps",
        "dk-depthwise",
        "dk",
        "dke",
        "gauss",
        "drconv",
        "factorised",
        "orthogonal",
    ],
)
def test_second_derivatives_are_refused(call, shapes):
    if not ops.has_extension() and shapes[0] in ((2, 2, 3), (1, 2, 5, 5), (1, 2, 4, 4)):
        pytest.skip("PyTorch's own operations have second derivatives")
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        second(call, [torch.randn(shape) for shape in shapes])


def test_second_derivatives_where_pytorch_has_them():
    """Against finite differences of the first derivatives."""
    with ops.without_extension():
        assert_second_derivatives()


def assert_second_derivatives():
    size = (5, 5)
    weight = torch.randn(2, 1, 3, dtype=torch.double, requires_grad=True)
    positions = torch.randn(2, 2, 1, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda w, p: ops.dcls_kernel(w, p, size), (weight, positions)
    )
    x = torch.randn(1, 2, 6, 6, dtype=torch.double, requires_grad=True)
    conv = torch.randn(2, 1, 5, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: ops.depthwise_conv2d(x, w), (x, conv))


def test_depthwise_convolution_has_second_derivatives():
    x = torch.randn(1, 2, 7, 6, dtype=torch.float, requires_grad=True)
    weight = torch.randn(2, 1, 5, 5, requires_grad=True)
    results = [
        torch.autograd.grad(
            sum(
                g.square().sum()
                for g in torch.autograd.grad(
                    f(x, weight).pow(3).sum(), (x, weight), create_graph=True
                )
            ),
            (x, weight),
        )
        for f in (ops.depthwise_conv2d, lambda x, w: nn.functional.conv2d(x, w, groups=2))
    ]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
