"""Region-aware convolution: the compiled operations against their definition."""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from mmlearnconv.ops import drconv, drconv2d, drconv2d_factorised, reference
from mmlearnconv.ops.drconv import _region_product_operator
from mmlearnconv.ops.reference import conv_output_size
from tests.ops.sweep import assert_equals_definition, both_formats, built, geometries


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
    """Input, guide, pattern, value and offset."""
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


@pytest.fixture(params=["counts", "blocks"])
def grouping(request, monkeypatch):
    """Locations grouped as on the host, or as on a GPU."""
    monkeypatch.setattr(drconv, "_counts_on_host", lambda _: request.param == "counts")


def definition_of(case):
    def definition(x, guide, pattern, value, offset):
        filters = value[..., None, None] * pattern[:, :, None, None] + offset[..., None, None]
        return reference.drconv2d(x, guide, filters, *case["geometry"], case["groups"])

    return definition


@pytest.mark.parametrize("case", list(cases(40)), ids=str)
@both_formats
def test_factorised_equals_its_definition(case, memory_format, grouping):
    def ours(*tensors):
        return drconv2d_factorised(*tensors, *case["geometry"], case["groups"])

    assert_equals_definition(ours, definition_of(case), tensors_of(case), memory_format)


@pytest.mark.parametrize("case", list(cases(20)), ids=str)
@both_formats
def test_any_filters_equal_their_definition(case, memory_format, grouping):
    x, guide, *_ = tensors_of(case)
    shape = case["regions"], case["out"], x.shape[1] // case["groups"], *case["size"]
    filters = torch.randn(len(x), *shape, dtype=torch.double)

    def call(function):
        return lambda *tensors: function(*tensors, *case["geometry"], case["groups"])

    ours, definition = call(drconv2d), call(reference.drconv2d)
    assert_equals_definition(ours, definition, (x, guide, filters), memory_format)


CASE = dict(
    shape=(2, 4, 6, 5), size=(3, 2), geometry=((2, 1), (1, 1), (1, 2)), regions=3, groups=2, out=6
)


def test_the_product_is_an_operator_like_pytorch_s():
    rows, filters = torch.randn(9, 8), torch.randn(3, 6, 4)
    arguments = rows.requires_grad_(), filters.requires_grad_(), torch.randint(3, (9,)), 2
    torch.library.opcheck(_region_product_operator, arguments)


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
    products = torch.randn(5, 2, CASE["regions"], x.shape[1], dtype=torch.double)
    torch.library.opcheck(operators.drconv_inner.default, (products, x, pattern, *geometry, 3, 8))


@built
def test_tiles_change_nothing(monkeypatch):
    tensors = tensors_of(CASE)

    def run():
        leaves = [t.clone().requires_grad_() for t in tensors]
        found = drconv2d_factorised(*leaves, *CASE["geometry"], CASE["groups"])
        return [found, *torch.autograd.grad(found.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr("mmlearnconv.ops.drconv._TILE", 3 * 8)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@built
def test_wrong_arguments_are_named():
    x = torch.zeros(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    places = torch.zeros(36, dtype=torch.long)
    geometry = [6, 6], [1, 1], [1, 1], [1, 1]

    shares = torch.zeros(1, 3, 3, 3)

    def features(x=x, pattern=shares, region=places, end=36):
        room = torch.zeros(36, 2, 4)
        torch.ops.mmlearnconv.drconv_features(x, pattern, region, places, *geometry, 0, end, room)

    features()
    for change, message in (
        (dict(x=torch.zeros(1, 4, 6, 6)), "input .* channels_last"),
        (dict(pattern=torch.zeros(2, 3, 3, 3)), r"pattern .* must be \(1, regions, kH, kW\)"),
        (dict(region=places[:5]), "region .* must have 36 integers"),
        (dict(end=37), "hold 0 to 37"),
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
        product = drconv._product_of_regions(rows, value, region, CASE["groups"])
        drconv._product_of_regions_backward(grad, rows, value, region, CASE["groups"])
        assert product.shape == grad.shape
        with pytest.raises(DynamicOutputShapeException):
            drconv._order(region, CASE["regions"])


@built
def test_nothing_in_tiles_on_a_gpu_waits_for_it():
    with FakeTensorMode():
        x, guide, pattern, value, offset = (t.to("meta") for t in tensors_of(CASE))
        region = guide.max(1).indices.flatten()
        geometry = guide.shape[2:], *CASE["geometry"]
        (tile,) = drconv._feature_tiles(x, pattern, region, geometry)
        assert tile.region.shape == tile.places.shape == region.shape
        grad = x.new_empty(len(region), CASE["out"])
        drconv._inner_products(grad, x, pattern, value, offset, geometry, CASE["groups"])
