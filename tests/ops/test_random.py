"""Every operation against its definition in float64, on random cases, compiled and not.

``MMLEARNCONV_TEST_CASES`` is the number of cases per operation and path in float64, 20 by default,
and half of it in each of float32, float16 and bfloat16
(``MMLEARNCONV_TEST_CASES=100 pytest tests/ops/test_random.py`` runs 9,000).
"""

import os
import random

import pytest
import torch

from mmlearnconv import ops
from mmlearnconv.ops import reference
from mmlearnconv.ops.geometry import conv_output_size

CASES = int(os.environ.get("MMLEARNCONV_TEST_CASES", "20"))


def normal(*shape):
    return torch.randn(shape, dtype=torch.double)


def positions(rng, *shape, scale=1.5):
    """Real ones, some of which are whole, and some far out."""
    values = scale * normal(*shape)
    values = torch.where(torch.rand(shape) < rng.choice([0, 0.3, 1]), values.round(), values)
    return torch.where(torch.rand(shape) < rng.choice([0, 0, 0.1]), 1e3 * values, values)


def map_of(rng, *shape):
    """A map, in one of the ways in which memory holds them."""
    if rng.random() < 0.2:
        return normal(*shape[:3], 2 * shape[3])[..., ::2]
    formats = [torch.contiguous_format, torch.channels_last]
    return normal(*shape).contiguous(memory_format=rng.choice(formats))


def geometry_of(rng, most=4, strided=True):
    """Kernel size, stride, padding, dilation, and the size of a map that is large enough."""
    size, stride, dilation, padding = (
        tuple(rng.randint(low, high) for _ in range(2))
        for low, high in ((1, most), (1, 3 if strided else 1), (1, 3), (0, most))
    )
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, size, padding, strict=True)
    ]
    shape = tuple(n + rng.choice([0, rng.randint(0, 12)]) for n in least)
    return size, (stride, padding, dilation), shape


def channels_of(rng):
    """Channels in, channels out, groups; a third is depthwise."""
    groups = rng.choice([1, 2, 3])
    channels = groups * rng.choice([1, 2, 5, 16])
    if rng.random() < 0.3:
        return channels, channels, channels
    return channels, groups * rng.choice([1, 3, 16]), groups


def dcls_kernel(rng):
    size = tuple(rng.randint(1, 9) for _ in range(rng.choice([1, 2, 2, 3])))
    shape = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 12)
    kind = rng.choice(["bilinear", "bilinear", "gauss", "triangle"])
    tensors = [normal(*shape), positions(rng, len(size), *shape, scale=2)]
    if kind != "bilinear" and rng.random() < 0.7:
        tensors.append(0.3 * normal(len(size), *shape))

    def call(function, weight, where, width=None):
        return function(weight, where, size, kind, width)

    return call, ops.dcls_kernel, reference.dcls_kernel, tensors


def dcls_conv2d(rng):
    _, (stride, padding, dilation), _ = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    window = rng.randint(1, 9), rng.randint(1, 9)
    shape = out, channels // groups, rng.randint(1, 12)
    kind = rng.choice(["bilinear", "gauss", "triangle"])
    size = [
        max(1, d * (w - 1) + 1 - 2 * p) + rng.randint(0, 12)
        for d, w, p in zip(dilation, window, padding, strict=True)
    ]
    where = positions(rng, 2, *shape, scale=2)
    tensors = [map_of(rng, rng.randint(0, 2), channels, *size), normal(*shape), where]

    def call(function, x, weight, where):
        arguments = x, weight, where, window, None, stride, padding, dilation, groups
        return function(*arguments, interpolation=kind)

    return call, ops.dcls_conv2d, reference.dcls_conv2d, tensors


def depthwise_conv2d(rng):
    size, geometry, shape = geometry_of(rng, most=rng.choice([4, 18]))
    channels = rng.choice([1, 3, 16, 17])
    tensors = [map_of(rng, rng.randint(0, 2), channels, *shape), normal(channels, 1, *size)]
    if rng.random() < 0.5:
        tensors.append(normal(channels))

    def definition(x, weight, bias=None):
        values = weight.flatten(2)
        cells = torch.cartesian_prod(*map(torch.arange, size)).expand(*values.shape, 2)
        return reference.depthwise_taps(x, values, cells, size, bias, *geometry)

    def call(function, x, weight, bias=None):
        if function is definition:
            return definition(x, weight, bias)
        return function(x, weight, bias, *geometry)

    return call, ops.depthwise_conv2d, definition, tensors


def depthwise_taps(rng):
    size, geometry, shape = geometry_of(rng, most=9)
    channels = rng.choice([1, 3, 16, 17])
    lists = channels, rng.randint(1, 3), rng.randint(1, 12)
    cells = torch.stack([torch.randint(n, lists) for n in size], -1)
    tensors = [map_of(rng, rng.randint(0, 2), channels, *shape), normal(*lists)]
    if rng.random() < 0.5:
        tensors.append(normal(channels * lists[1]))

    def call(function, x, values, bias=None):
        return function(x, values, cells, size, bias, *geometry)

    return call, ops.depthwise_taps, reference.depthwise_taps, tensors


def dk_conv2d(rng):
    size, geometry, shape = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    scope = tuple(k + rng.choice([0, 0, 1, 3]) for k in size)
    batch, numbers = rng.randint(0, 2), 2 * size[0] * size[1]
    one = rng.random() < 0.25
    places = (1, 1) if one else conv_output_size(shape, size, *geometry)
    tensors = [
        map_of(rng, batch, channels, *shape),
        normal(out, channels // groups, *scope),
        positions(rng, batch, numbers, *places),
    ]
    if not one and rng.random() < 0.4:
        tensors.append(positions(rng, batch, numbers, *places, scale=3))

    def call(function, x, weight, offsets, data_offsets=None):
        arguments = x, weight, offsets, size, None, *geometry, groups
        return function(*arguments, data_offsets=data_offsets)

    return call, ops.dk_conv2d, reference.dk_conv2d, tensors


def dke_conv2d(rng):
    _, (stride, padding, dilation), _ = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    kind, points = rng.choice(["gauss", "bilinear"]), rng.randint(1, 9)
    limit = rng.choice([1, 2, 4])
    # Some reach beyond it.
    window = tuple(2 * (limit + rng.choice([0, 1, 2])) + rng.choice([1, 1, 2]) for _ in range(2))
    padding = tuple(p + d * (w - 1) // 2 for p, d, w in zip(padding, dilation, window, strict=True))
    shape = [
        max(1, d * (w - 1) + 1 - 2 * p) + rng.randint(0, 12)
        for d, w, p in zip(dilation, window, padding, strict=True)
    ]
    size = conv_output_size(shape, window, stride, padding, dilation)
    batch = rng.randint(0, 2)
    tensors = [
        map_of(rng, batch, channels, *shape),
        normal(out, channels // groups, points),
        # Exact in every dtype: whether a cell lies within the radius is not a matter of rounding.
        (24 * normal(channels, points, 2)).round().div(16).clamp(-limit, limit),
    ]
    if rng.random() < 0.6:
        tensors.append(normal(batch, points, *size))
    alpha, radius = rng.choice([0.5, 2.0, 10.0]), rng.choice([1.0, 2.0])
    options = dict(interpolation=kind, alpha=alpha, radius=radius)

    def call(function, x, weight, where, attention=None):
        arguments = x, weight, where, window, None, stride, padding, dilation, groups
        return function(*arguments, attention=attention, **options)

    return call, ops.dke_conv2d, reference.dke_conv2d, tensors


def dke_positions(rng, *shape):
    """Exact in every dtype: whether a cell lies within the radius is no matter of rounding."""
    return (24 * normal(*shape, 2)).round().div(16).clamp(-4, 4)


def dke_options(rng):
    """Window, interpolation, alpha, radius."""
    window = tuple(2 * (4 + rng.choice([0, 1, 2])) + rng.choice([1, 1, 2]) for _ in range(2))
    kind = rng.choice(["gauss", "bilinear"])
    return window, kind, rng.choice([0.5, 2.0, 10.0]), rng.choice([1.0, 2.0])


def dke_response(rng):
    options = dke_options(rng)
    tensors = [dke_positions(rng, rng.randint(1, 4), rng.randint(1, 9))]

    def call(function, where):
        return function(where, *options)

    return call, ops.dke_response, reference.dke_response, tensors


def dke_kernel(rng):
    window, *options = dke_options(rng)
    channels, out, groups = channels_of(rng)
    points = rng.randint(1, 9)
    tensors = [normal(out, channels // groups, points), dke_positions(rng, channels, points)]

    def definition(weight, where, window, groups, *options):
        response = reference.dke_response(where, window, *options)
        own = [
            torch.einsum("oip,ipuv->oiuv", *parts)
            for parts in zip(weight.chunk(groups), response.chunk(groups), strict=True)
        ]
        return torch.cat(own)

    def call(function, weight, where):
        return function(weight, where, window, groups, *options)

    return call, ops.dke_kernel, definition, tensors


def drconv2d(rng):
    size, geometry, shape = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    batch, regions = rng.randint(0, 2), rng.choice([1, 2, 8])
    places = conv_output_size(shape, size, *geometry)
    tensors = [
        map_of(rng, batch, channels, *shape),
        normal(batch, regions, *places),
        normal(batch, regions, out, channels // groups, *size),
    ]

    def call(function, *tensors):
        return function(*tensors, None, *geometry, groups)

    return call, ops.drconv2d, reference.drconv2d, tensors


def drconv2d_factorised(rng):
    size, geometry, shape = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    batch, regions = rng.randint(0, 2), rng.choice([1, 2, 8])
    places = conv_output_size(shape, size, *geometry)
    filters = regions, out, channels // groups
    tensors = [
        map_of(rng, batch, channels, *shape),
        normal(batch, regions, *places),
        normal(batch, regions, *size),
        normal(*filters),
        normal(*filters),
    ]

    def call(function, *tensors):
        return function(*tensors, None, *geometry, groups)

    return call, ops.drconv2d_factorised, reference.drconv2d_factorised, tensors


def condconv2d(rng):
    size, geometry, shape = geometry_of(rng)
    channels, out, groups = channels_of(rng)
    batch, experts = rng.randint(1, 3), rng.randint(1, 4)
    tensors = [
        map_of(rng, batch, channels, *shape),
        normal(experts, out, channels // groups, *size),
        normal(batch, experts),
    ]

    def call(function, *tensors):
        return function(*tensors, None, *geometry, groups)

    return call, ops.condconv2d, reference.condconv2d, tensors


def orthogonalize(rng):
    filters = rng.randint(1, 40)
    numbers = filters + rng.choice([0, 1, 5, 100])
    return (
        lambda function, weight: function(weight),
        ops.orthogonalize,
        reference.orthogonalize,
        [normal(filters, numbers)],
    )


def involution2d(rng):
    size, geometry, shape = geometry_of(rng)
    groups = rng.choice([1, 2, 3])
    channels, batch = groups * rng.choice([1, 2, 5]), rng.randint(0, 2)
    places = conv_output_size(shape, size, *geometry)
    tensors = [map_of(rng, batch, channels, *shape), normal(batch, groups, *size, *places)]
    if rng.random() < 0.5:
        tensors.append(normal(channels))

    def call(function, x, kernels, bias=None):
        return function(x, kernels, bias, *geometry)

    return call, ops.involution2d, reference.involution2d, tensors


def associate_kernels(rng):
    association, size = rng.randint(1, 4), (rng.randint(1, 5), rng.randint(1, 5))
    out, per_group = rng.randint(1, 20), rng.randint(1, 4)
    layers, sheets = rng.randint(1, 3), -(-out // association**2)
    sides = rng.choice([1, 3, 5]), rng.choice([1, 3, 5])
    dilation, skip = (rng.randint(1, 3), rng.randint(1, 3)), rng.random() < 0.5
    tensors = [
        normal(out, per_group, *size),
        normal(layers, sheets, *sides) / (sides[0] * sides[1]) ** 0.5,
    ]
    # A kernel of one element has no deviation.
    if sides != (1, 1) and rng.random() < 0.5:
        sheet = layers, sheets, association * size[0], association * size[1]
        tensors += [normal(*sheet), normal(*sheet)]

    def call(function, weight, super_weight, *norms):
        return function(weight, super_weight, association, dilation, skip, norms or None)

    return call, ops.associate_kernels, reference.associate_kernels, tensors


def filters_of(rng):
    # Of one element, or nearly equal ones, a norm magnifies rounding.
    return normal(rng.randint(1, 9), rng.randint(2, 5), rng.randint(1, 4), rng.randint(2, 4))


def standardize(rng):
    weight = filters_of(rng)
    tensors = [weight, normal(len(weight)), normal(len(weight))]
    return apply, ops.standardize, reference.standardize, tensors


def normalize_filters(rng):
    weight = filters_of(rng)

    def definition(weight, gain, mean):
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        return centred / (variance + 1e-5).sqrt() * gain + mean

    tensors = [weight, normal(*weight.shape[1:]), normal(*weight.shape[1:])]
    return apply, ops.normalize_filters, definition, tensors


def apply(function, *tensors):
    return function(*tensors)


def repulsion(rng):
    axes, count, radius = rng.randint(1, 3), rng.randint(2, 9), rng.choice([0.5, 1.0, 4.0])

    def definition(positions, radius):
        points = positions.flatten(1, -2).permute(1, 2, 0)
        near = [
            (radius - (kernel[i] - kernel[j]).norm()).relu()
            for kernel in points
            for i in range(count)
            for j in range(i)
        ]
        return torch.stack(near).mean()

    def call(function, where):
        return function(where, radius).to(where.dtype)

    tensors = [normal(axes, rng.randint(1, 4), rng.randint(1, 3), count)]
    return call, ops.repulsion, definition, tensors


def orthogonality(rng):
    filters = rng.randint(1, 9)

    def definition(kernel):
        rows = kernel.flatten(1)
        terms = [
            (rows[i] @ rows[j] - float(i == j)).square()
            for i in range(filters)
            for j in range(filters)
        ]
        return torch.stack(terms).mean()

    def call(function, kernel):
        return function(kernel).to(kernel.dtype)

    return call, ops.orthogonality, definition, [normal(filters, rng.randint(1, 9), 2)]


OPERATIONS = [
    dcls_kernel,
    dcls_conv2d,
    depthwise_conv2d,
    depthwise_taps,
    dk_conv2d,
    dke_conv2d,
    dke_response,
    dke_kernel,
    drconv2d,
    drconv2d_factorised,
    condconv2d,
    orthogonalize,
    involution2d,
    associate_kernels,
    standardize,
    normalize_filters,
    repulsion,
    orthogonality,
]


# Relative to the largest element. The definition is computed in float64 from the rounded arguments;
# what an operation rounds in between, in half precision, takes a few units in the last place.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 8 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 8 * torch.finfo(torch.bfloat16).eps,
}


def checked(make, number, dtype):
    """Values and gradients of one random case."""
    seed = f"{make.__name__} {number}"
    rng = random.Random(seed)
    torch.manual_seed(rng.getrandbits(32))
    call, ours, definition, tensors = make(rng)
    results = []
    for function, used in ((ours, dtype), (definition, torch.float64)):
        # A clone keeps a map's memory format.
        leaves = [t.detach().clone().to(dtype).to(used).requires_grad_() for t in tensors]
        output = call(function, *leaves)
        assert output.dtype == used
        torch.manual_seed(number)
        upstream = torch.randn(output.shape, dtype=torch.float64).to(dtype)
        results.append([output, *torch.autograd.grad(output, leaves, upstream.to(used))])
    for found, expected in zip(*results, strict=True):
        tolerance = TOLERANCES[dtype]
        # The singular vectors' own derivative, in the definition, loses digits.
        if make is orthogonalize:
            tolerance = max(tolerance, 1e-6)
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(
            *(found.double(), expected),
            rtol=tolerance,
            atol=tolerance * scale,
            msg=lambda text, seed=seed: f"case {seed!r}: {text}",
        )


def test_every_operation_is_tried():
    assert {make.__name__ for make in OPERATIONS} == {*ops.__all__} - {
        "has_extension",
        "without_extension",
    }


@pytest.mark.parametrize("make", OPERATIONS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).partition(".")[2])
def test_values_and_gradients_are_the_definition_s(make, path, dtype):
    for number in range(CASES if dtype == torch.float64 else CASES // 2):
        checked(make, number, dtype)


@pytest.mark.parametrize("make", OPERATIONS, ids=lambda make: make.__name__)
def test_tensors_on_several_devices_are_named(make, path):
    """On CUDA a kernel would read a pointer of the host."""
    for number in range(4):
        torch.manual_seed(number)
        call, ours, _, tensors = make(random.Random(number))
        for i in range(1, len(tensors)):
            elsewhere = [*tensors[:i], tensors[i].to("meta"), *tensors[i + 1 :]]
            with pytest.raises(ValueError, match=r"^\w+: on meta; must be on "):
                call(ours, *elsewhere)
