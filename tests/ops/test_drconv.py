"""Region-aware convolution against its definition and hand-made cases."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.autograd import gradcheck

from mmlearnconv.ops import drconv2d, drconv2d_factorised, reference
from mmlearnconv.ops.drconv import factorised, regions
from mmlearnconv.ops.geometry import conv_output_size
from tests.ops.op_testing import (
    GEOMETRIES,
    GEOMETRY,
    assert_equals_definition,
    assert_same,
    both_formats,
    built,
    double,
    geometries,
    make_input,
    output_size,
)


def guide_like(x, geometry, regions=3):
    size = output_size(x, *geometry[:4])
    return torch.randn(x.shape[0], regions, *size, **double, requires_grad=True)


@GEOMETRY
def test_filters_equal_their_definition(geometry, path):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    guide = guide_like(x, geometry)
    filters = torch.randn(2, 3, out, 4 // groups, *kernel, **double, requires_grad=True)

    def call(function):
        return lambda x, g, f: function(x, g, f, None, stride, padding, dilation, groups)

    assert_same(call(drconv2d), call(reference.drconv2d), (x, guide, filters))


@GEOMETRY
@pytest.mark.parametrize("based", [False, True])
def test_factors_equal_their_definition(geometry, based, path):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    guide = guide_like(x, geometry)
    pattern = torch.rand(2, 3, *kernel, **double, requires_grad=True)
    scale, shift = (
        torch.randn(3, out, 4 // groups, **double, requires_grad=True) for _ in range(2)
    )
    base = torch.randn(out, 4 // groups, *kernel, **double, requires_grad=True) if based else None

    def call(function):
        return lambda *tensors: function(
            *tensors[:5], None, stride, padding, dilation, groups, base=tensors[5]
        )

    tensors = x, guide, pattern, scale, shift, base
    assert_same(call(drconv2d_factorised), call(reference.drconv2d_factorised), tensors)


def test_guide_gradient_written_out():
    """Eq. 6-8 at every location, with numbers."""
    x, geometry = make_input(1), GEOMETRIES[0]
    guide = guide_like(x, geometry)
    filters = torch.randn(1, 3, 6, 4, 3, 3, **double)
    output = drconv2d(x, guide, filters, None, 1, 1)
    upstream = torch.randn_like(output)
    (ours,) = torch.autograd.grad(output, guide, upstream)
    responses = [F.conv2d(x, filters[0, t], padding=1) for t in range(3)]
    for row, column in itertools.product(range(8), range(9)):
        logits = guide[0, :, row, column].tolist()
        picked = logits.index(max(logits))
        torch.testing.assert_close(output[0, :, row, column], responses[picked][0, :, row, column])
        soft = [math.exp(f) / sum(map(math.exp, logits)) for f in logits]
        inner = [float(upstream[0, :, row, column] @ r[0, :, row, column]) for r in responses]
        mean = sum(s * i for s, i in zip(soft, inner, strict=True))
        expected = [s * (i - mean) for s, i in zip(soft, inner, strict=True)]
        assert ours[0, :, row, column].tolist() == pytest.approx(expected)


def test_gradcheck_of_all_but_the_guide(path):
    x = torch.randn(2, 2, 4, 4, **double, requires_grad=True)
    guide = torch.randn(2, 3, 4, 4, **double)
    pattern = torch.rand(2, 3, 3, 3, **double, requires_grad=True)
    scale, shift = (torch.randn(3, 2, 2, **double, requires_grad=True) for _ in range(2))
    assert gradcheck(
        lambda x, p, v, o: drconv2d_factorised(x, guide, p, v, o, None, 1, 1),
        (x, pattern, scale, shift),
    )


def test_with_one_region_equals_a_convolution():
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    filters = weight.expand(2, 1, -1, -1, -1, -1)
    ours = drconv2d(x, torch.zeros(2, 1, 8, 9, **double), filters, None, 1, 1, 1, 2)
    torch.testing.assert_close(ours, F.conv2d(x, weight, None, 1, 1, 1, 2))


def cases(count):
    for rng, case in geometries(4, count, most=4, channels=(4, 16, 40)):
        channels = case["shape"][1]
        if rng.random() < 0.3:
            size = conv_output_size(case["shape"][2:], case["size"], *case["geometry"])
            case = case | dict(size=(1, 1), shape=(*case["shape"][:2], *(n + 9 for n in size)))
        yield case | dict(
            regions=rng.choice([1, 3, 8]),
            groups=rng.choice([1, 2, channels]),
            out=rng.choice([channels, 2 * channels]),
        )


def tensors_of(case):
    """Input, guide, pattern, filter scale and filter bias."""
    batch, channels = case["shape"][:2]
    size = conv_output_size(case["shape"][2:], case["size"], *case["geometry"])
    filters = (case["regions"], case["out"], channels // case["groups"])
    tensors = [
        torch.randn(case["shape"]),
        torch.randn(batch, case["regions"], *size),
        torch.rand(batch, case["regions"], *case["size"]),
        torch.randn(filters),
        torch.randn(filters),
    ]
    return [t.double() for t in tensors]


@pytest.fixture(params=["sizes", "buckets"])
def grouping(request, monkeypatch):
    """Locations grouped as on the host, or as on a GPU."""
    monkeypatch.setattr("mmlearnconv.ops.dispatch.is_cpu", lambda _: request.param == "sizes")


@pytest.mark.parametrize("case", list(cases(40)), ids=str)
@both_formats
def test_factorised_equals_its_definition(case, memory_format, grouping):
    def call(function):
        return lambda *tensors: function(*tensors, None, *case["geometry"], case["groups"])

    ours, definition = call(drconv2d_factorised), call(reference.drconv2d_factorised)
    assert_equals_definition(ours, definition, tensors_of(case), memory_format)


@pytest.mark.parametrize("case", list(cases(20)), ids=str)
@both_formats
def test_any_filters_equal_their_definition(case, memory_format, grouping):
    x, guide, *_ = tensors_of(case)
    shape = case["regions"], case["out"], x.shape[1] // case["groups"], *case["size"]
    filters = torch.randn(len(x), *shape, dtype=torch.double)

    def call(function):
        return lambda *tensors: function(*tensors, None, *case["geometry"], case["groups"])

    ours, definition = call(drconv2d), call(reference.drconv2d)
    assert_equals_definition(ours, definition, (x, guide, filters), memory_format)


CASE = dict(
    shape=(2, 4, 6, 5), size=(3, 2), geometry=((2, 1), (1, 1), (1, 2)), regions=3, groups=2, out=6
)


def test_the_product_is_an_operator_like_pytorch_s():
    rows, filters = torch.randn(9, 8), torch.randn(3, 6, 4)
    arguments = rows.requires_grad_(), filters.requires_grad_(), torch.randint(3, (9,)), 2
    torch.library.opcheck(torch.ops.mmlearnconv.region_matmul.default, arguments)


@built
@both_formats
@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.bfloat16])
def test_factorised_is_an_operator_like_pytorch_s(memory_format, dtype):
    x, *rest = (t.to(dtype) for t in tensors_of(CASE))
    x = x.contiguous(memory_format=memory_format)
    tensors = [t.requires_grad_() for t in (x, *rest)]
    geometry = [list(g) for g in CASE["geometry"]]
    operator = torch.ops.mmlearnconv.drconv_factorised.default
    torch.library.opcheck(operator, (*tensors, *geometry, CASE["groups"]))


@built
def test_their_parts_are_operators_like_pytorch_s():
    x, guide, pattern, *_ = tensors_of(CASE)
    x = x.contiguous(memory_format=torch.channels_last)
    region = guide.argmax(1).flatten()
    order = region.argsort(stable=True)
    geometry = [list(g) for g in (guide.shape[2:], *CASE["geometry"])]
    features = torch.randn(5, 2, x.shape[1], dtype=torch.double)
    sampling = x, pattern, region, order, *geometry, 3, 8
    operators = torch.ops.mmlearnconv
    torch.library.opcheck(operators.drconv_features.default, (*sampling, features))
    into = torch.zeros_like(x), torch.zeros_like(pattern)
    torch.library.opcheck(operators.drconv_features_backward.default, (features, *sampling, *into))
    products = torch.randn(5, CASE["regions"], 2, x.shape[1], dtype=torch.double)
    torch.library.opcheck(operators.drconv_inner.default, (products, x, pattern, *geometry, 3, 8))


@built
def test_tiles_change_nothing(monkeypatch):
    tensors = tensors_of(CASE)

    def run():
        leaves = [t.clone().requires_grad_() for t in tensors]
        found = drconv2d_factorised(*leaves, None, *CASE["geometry"], CASE["groups"])
        return [found, *torch.autograd.grad(found.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr("mmlearnconv.ops.drconv.regions.TILE", 3 * 8)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@built
def test_wrong_arguments_are_named():
    x = torch.zeros(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    places = torch.zeros(36, dtype=torch.long)
    geometry = [6, 6], [1, 1], [1, 1], [1, 1]

    shares = torch.zeros(1, 3, 3, 3)

    def features(x=x, pattern=shares, region=places, end=36):
        workspace = torch.zeros(36, 2, 4)
        torch.ops.mmlearnconv.drconv_features(
            x, pattern, region, places, *geometry, 0, end, workspace
        )

    features()
    for change, message in (
        (dict(x=torch.zeros(1, 4, 6, 6)), "input .* channels_last"),
        (dict(pattern=torch.zeros(2, 3, 3, 3)), r"pattern .* must be \(1, regions, kH, kW\)"),
        (dict(region=places[:5]), "region .* must be contiguous with 36 elements"),
        (dict(end=37), "contain the range 0 to 37"),
    ):
        with pytest.raises(RuntimeError, match=message):
            features(**change)


def test_nothing_on_a_gpu_waits_for_it():
    # Tensors without data refuse to be read.
    with FakeTensorMode():
        x, guide, _, value, _ = (t.to("meta") for t in tensors_of(CASE))
        places = guide.shape[0] * guide.shape[2:].numel()
        region = torch.zeros(places, dtype=torch.long, device="meta")
        rows, grad = x.new_empty(places, x.shape[1]), x.new_empty(places, CASE["out"])
        product = regions.forward(rows, value, region, CASE["groups"])
        regions.backward(grad, rows, value, region, CASE["groups"])
        assert product.shape == grad.shape
        with pytest.raises(DynamicOutputShapeException):
            regions.sort_by_region(region, CASE["regions"])


@pytest.mark.parametrize(("locations", "count"), [(1, 5), (31, 3), (700, 3), (70, 20_000)])
def test_buckets_hold_the_locations_of_a_region_in_order(locations, count):
    region = torch.randint(min(count, 50), (locations,))
    buckets = regions.RegionBuckets(region, count)
    assert torch.equal(buckets.location[buckets.slot], torch.arange(locations))
    assert torch.equal(buckets.region[buckets.slot // buckets.size], region)
    for t in region.unique():
        assert (buckets.slot[region == t].diff() > 0).all()
    free = torch.ones(len(buckets.location), dtype=torch.bool).index_fill_(0, buckets.slot, False)
    assert (buckets.location[free] == locations).all()
    assert len(buckets.location) == buckets.size * len(buckets.region)


@built
def test_nothing_with_factorised_filters_on_a_gpu_waits_for_it():
    with FakeTensorMode():
        x, guide, pattern, value, _ = (t.to("meta") for t in tensors_of(CASE))
        matrices = torch.cat([value, value], 2)
        region = guide.max(1).indices.flatten()
        geometry, groups = (guide.shape[2:], *CASE["geometry"]), CASE["groups"]
        tensors = x, pattern, matrices, region
        output = factorised.in_buckets(*tensors, geometry, groups)
        grad = torch.empty_like(output)
        gradients = factorised.in_buckets_backward(grad, *tensors, geometry, groups)
        for gradient, tensor in zip(gradients, (x, pattern, matrices), strict=True):
            assert gradient.shape == tensor.shape
        inner = factorised.inner_products(grad, x, pattern, matrices, geometry, groups)
        assert inner.shape == (len(region), CASE["regions"])
