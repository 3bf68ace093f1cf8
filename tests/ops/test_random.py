"""Every operation against its definition in float64, on random cases, compiled and not.

``MMLEARNCONV_TEST_CASES`` is the number of cases per operation and path in float64, 20 by default,
and half of it in each of float32, float16 and bfloat16
(``MMLEARNCONV_TEST_CASES=100 pytest tests/ops/test_random.py`` runs 4,500).
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


OPERATIONS = [
    dcls_kernel,
    depthwise_conv2d,
    depthwise_taps,
    dk_conv2d,
    dke_conv2d,
    drconv2d,
    drconv2d_factorised,
    condconv2d,
    orthogonalize,
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
