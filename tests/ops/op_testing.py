"""What the tests of operations share: geometries, and comparisons with a definition."""

import os
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlearnconv.ops import has_extension

double = dict(dtype=torch.double)
# kernel size, stride, padding, dilation, groups, out
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 6),
    ((3, 3), (2, 1), (0, 2), (1, 2), 2, 6),
    ((1, 1), (1, 1), (0, 0), (1, 1), 1, 3),
    ((2, 3), (2, 2), (1, 0), (2, 1), 4, 4),
]
GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)

# Where the tests run: see conftest.py.
DEVICE = os.environ.get("MMLEARNCONV_TEST_DEVICE", "cpu")
built = pytest.mark.skipif(not has_extension(), reason="the compiled operations are not built")
both_formats = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last]
)


def geometries(
    seed: int, count: int, most: int = 5, channels: Sequence[int] = (1, 3, 16, 33)
) -> Iterator[tuple[random.Random, dict]]:
    """Sizes that no vector divides, strides, dilations, empty batches, maps of a pixel."""
    rng = random.Random(seed)
    for _ in range(count):
        size, stride, dilation, padding = (
            tuple(rng.randint(low, high) for _ in range(2))
            for low, high in ((1, most), (1, 3), (1, 3), (0, most - 1))
        )
        least = [
            max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, size, padding, strict=True)
        ]
        shape = [n + rng.choice([0, rng.randint(0, 30)]) for n in least]
        yield (
            rng,
            dict(
                shape=(rng.choice([0, 1, 2, 3]), rng.choice(channels), *shape),
                size=size,
                geometry=(stride, padding, dilation),
            ),
        )


def assert_equals_definition(
    ours: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    memory_format: torch.memory_format,
) -> None:
    """Values and gradients, in float64 to 1e-10 and float32 to 1e-4; two runs give equal bits.

    Both functions take ``tensors``, which are float64; the first is the input, a map.
    """
    exact = [t.detach().clone().requires_grad_() for t in tensors]
    expected = definition(*exact)
    upstream = torch.randn_like(expected)
    goals = [expected, *torch.autograd.grad(expected, exact, upstream)]
    for dtype, tolerance in ((torch.double, 1e-10), (torch.float, 1e-4)):
        runs = []
        for _ in range(2):
            leaves = [t.detach().to(dtype) for t in exact]
            leaves[0] = leaves[0].contiguous(memory_format=memory_format)
            leaves = [t.requires_grad_() for t in leaves]
            found = ours(*leaves)
            if not leaves[0].is_contiguous():
                assert found.is_contiguous(memory_format=torch.channels_last)
            else:
                assert found.is_contiguous()
            runs.append([found, *torch.autograd.grad(found, leaves, upstream.to(dtype))])
        for one, other, goal in zip(*runs, goals, strict=True):
            # On a GPU atomics add in any order otherwise.
            if DEVICE == "cpu" or torch.are_deterministic_algorithms_enabled():
                assert torch.equal(one, other)
            scale = max(1.0, goal.abs().max().item()) if goal.numel() else 1.0
            torch.testing.assert_close(one.double(), goal, rtol=tolerance, atol=tolerance * scale)


def make_input(batch: int = 2, channels: int = 4) -> Tensor:
    """A map of 8x9 in float64."""
    return torch.randn(batch, channels, 8, 9, **double, requires_grad=True)


def output_size(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Size:
    """Rows and columns that PyTorch's convolution makes of a map."""
    one = torch.zeros(1, 1, *kernel, **double)
    return F.conv2d(x[:1, :1], one, None, stride, padding, dilation).shape[2:]


def assert_same(
    function: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    tolerance: float = 1e-10,
) -> None:
    """Equal outputs and gradients, in float64."""
    ours, expected = function(*tensors), definition(*tensors)
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    upstream = torch.randn_like(expected)
    used = [t for t in tensors if t is not None]
    for a, b in zip(
        torch.autograd.grad(ours, used, upstream, allow_unused=True),
        torch.autograd.grad(expected, used, upstream, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
