"""Every layer of the catalogue in compiled and exported graphs."""

import math

import pytest
import torch

from tests.conftest import mostly_long
from tests.layers.contract import ALL_LAYERS, CASES, EVERY_LAYER, random_map

pytestmark = pytest.mark.slow

SIZES = [(2, 20, 20, 9), (2, 31, 14, 10), (1, 9, 25, 11), (3, 12, 12, 12), (2, 16, 33, 8)]


def run_sizes(conv, call, sizes):
    """Outputs and gradients of a call at each size."""
    found = []
    for batch, *size in sizes:
        size = batch, 8, *size[: conv.spatial_dims]
        x = torch.linspace(-1, 1, math.prod(size)).sin().view(size).requires_grad_()
        conv.zero_grad()
        output = call(x)
        output.square().sum().backward()
        found += [output.detach(), x.grad, *(p.grad.clone() for p in conv.parameters())]
    return found


def assert_compiled_is_eager(conv, backend):
    torch._dynamo.reset()
    compiled = torch.compile(conv, backend=backend, fullgraph=True)
    for ours, expected in zip(
        run_sizes(conv, compiled, SIZES), run_sizes(conv, conv, SIZES), strict=True
    ):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * scale)


@EVERY_LAYER
@pytest.mark.parametrize("groups", mostly_long([1, 8], 8))
def test_compiles_without_a_break_at_every_size(name, layer, options, groups):
    """Detectors run on images of many sizes."""
    # Involution's graph grows with the window: a minute for 7x7.
    size = 3 if name == "Involution" else 7
    conv = layer(8, 8, size, padding=size // 2, groups=groups, **options)
    assert_compiled_is_eager(conv, "aot_eager")


# Older PyTorch fails on symbolic sizes: 2.6 in Inductor, and in autograd Functions of exports.
any_size = pytest.mark.skipif(
    torch.__version__ < "2.13",
    reason="graphs for any size are claimed from PyTorch 2.13 on",
)


@any_size
@pytest.mark.parametrize("key", mostly_long(ALL_LAYERS, "DCLS"))
def test_compiles_with_inductor(key):
    """Half a minute each."""
    _, layer, options = ALL_LAYERS[key]
    assert_compiled_is_eager(layer(8, 8, 3, padding=1, **options), "inductor")


@EVERY_LAYER
@pytest.mark.parametrize("groups", mostly_long([1, 8], 8))
def test_exports_with_the_same_numbers(name, layer, options, groups):
    conv = layer(8, 8, 3, padding=1, groups=groups, **options).eval()
    x = random_map(layer, 2, 8, (20, 21, 9))
    exported = torch.export.export(conv, (x,))
    torch.testing.assert_close(exported.module()(x), conv(x), rtol=1e-4, atol=1e-5)


@any_size
@pytest.mark.parametrize("key", ALL_LAYERS)
@pytest.mark.parametrize("groups", [1, 8])
def test_exports_for_any_size(key, groups):
    _, layer, options = ALL_LAYERS[key]
    conv = layer(8, 8, 3, padding=1, groups=groups, **options).eval()
    any_batch = key not in CASES or CASES[key][1].any_batch
    x = random_map(layer, 2, 8, (20, 21, 9))
    axes = range(2, x.ndim)
    free = dict.fromkeys((0, *axes) if any_batch else axes, torch.export.Dim.DYNAMIC)
    exported = torch.export.export(conv, (x,), dynamic_shapes=(free,))
    y = random_map(layer, 3 if any_batch else 2, 8, (33, 12, 14))
    torch.testing.assert_close(exported.module()(y), conv(y), rtol=1e-4, atol=1e-5)
