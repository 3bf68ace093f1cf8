"""DRConv with factorised filters, which are never built: compiled features, matrix products."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import define, differentiable, forbid_second_derivative
from ..dispatch import (
    accumulate_dtype,
    empty_like,
    match_memory_format,
    product_dtype,
    without_autocast,
)
from ..extension import compiled, has_kernels_for
from .guide import nan_unless_finite, through_softmax
from .regions import (
    RegionBuckets,
    grouped_matmul,
    grouped_matmul_backward,
    locations_per_tile,
    rows_to_map,
    sort_by_region,
)

_ARGUMENTS = (
    "Tensor input, Tensor guide, Tensor pattern, Tensor filter_scale, Tensor filter_bias, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
)


def _fake(input, guide, pattern, filter_scale, *_):
    return empty_like(input, (input.shape[0], filter_scale.shape[1], *guide.shape[2:]))


def _fake_gradients(grad, input, guide, pattern, filter_scale, filter_bias, *_):
    dtype = torch.promote_types(filter_scale.dtype, filter_bias.dtype)
    regions, out, channels = filter_scale.shape
    both = filter_scale.new_empty(regions, out, 2 * channels, dtype=dtype)
    plain = (t.new_empty(t.shape) for t in (guide, pattern))
    return empty_like(input, input.shape), *plain, both


def _flops(input, guide, pattern, filter_scale, *_, out_shape, **__) -> int:
    locations = prod(guide) // guide[1]
    products = 2 * filter_scale[1] * filter_scale[2]
    return 2 * locations * (products + input[1] * pattern[2] * pattern[3])


@define("drconv_factorised", f"({_ARGUMENTS}) -> Tensor", _fake, _flops)
def _forward(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    x, pattern, matrices = _prepare(input, pattern, filter_scale, filter_bias)
    best, region = guide.max(1)
    region = region.flatten()
    geometry = guide.shape[2:], stride, padding, dilation
    multiply = in_buckets if _has_buckets(region) else _in_tiles
    with without_autocast(x):
        output = multiply(x, pattern, matrices, region, geometry, groups)
    output += nan_unless_finite(best).to(output.dtype).view(-1, 1)
    output = output.view(len(input), guide.shape[2:].numel(), filter_scale.shape[1])
    return rows_to_map(output, guide.shape[2:], input).to(input.dtype)


@define(
    "drconv_factorised_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_gradients,
)
def _backward(
    grad: Tensor,
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input, the guide, the pattern and of scale and bias side by side."""
    x, wide_pattern, matrices = _prepare(input, pattern, filter_scale, filter_bias)
    region = guide.max(1).indices.flatten()
    geometry = guide.shape[2:], stride, padding, dilation
    grad = grad.to(x.dtype).permute(0, 2, 3, 1).flatten(0, 2)
    multiply_backward = in_buckets_backward if _has_buckets(region) else _in_tiles_backward
    with without_autocast(x):
        tensors = grad, x, wide_pattern, matrices, region
        grad_x, grad_pattern, grad_matrices = multiply_backward(*tensors, geometry, groups)
        inner = inner_products(grad, x, wide_pattern, matrices, geometry, groups)
    inner = inner.view(len(x), *guide.shape[2:], len(filter_scale)).permute(0, 3, 1, 2)
    return (
        match_memory_format(grad_x.to(input.dtype), input),
        through_softmax(guide, inner).contiguous(),
        grad_pattern.to(pattern.dtype),
        grad_matrices.to(torch.promote_types(filter_scale.dtype, filter_bias.dtype)),
    )


def _context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.geometry = inputs[5:]


def _gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, both = _gradients(grad, *ctx.saved_tensors, *ctx.geometry)
    *_, scale, bias = ctx.saved_tensors
    grad_scale, grad_bias = both.chunk(2, 2)
    return *gradients, grad_scale.to(scale.dtype), grad_bias.to(bias.dtype), *(None,) * 4


_gradients = forbid_second_derivative("drconv_factorised_backward")
drconv_factorised = differentiable(
    "drconv_factorised",
    _gradient,
    _context,
)


def _prepare(
    input: Tensor, pattern: Tensor, filter_scale: Tensor, filter_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Input and pattern as the kernels read them, and the matrices ``(regions, out, 2 C / g)``."""
    dtype = product_dtype(input)
    x = input.to(dtype).contiguous(memory_format=torch.channels_last)
    matrices = torch.cat([filter_scale, filter_bias], 2).to(dtype)
    return x, pattern.to(accumulate_dtype(dtype)).contiguous(), matrices


# On a GPU: all locations at once, in buckets.


def _has_buckets(region: Tensor) -> bool:
    return len(region) > 0 and has_kernels_for(region.device.type, "drconv_gather")


def in_buckets(
    x: Tensor, pattern: Tensor, matrices: Tensor, region: Tensor, geometry: Sequence, groups: int
) -> Tensor:
    """The output's rows, ``(locations, out)``."""
    buckets = RegionBuckets(region, len(matrices))
    rows = _gather(x, pattern, region, buckets.location, *geometry, groups)
    return buckets.rows(buckets.matmul(buckets.split(rows, groups), matrices))


def in_buckets_backward(
    grad: Tensor,
    x: Tensor,
    pattern: Tensor,
    matrices: Tensor,
    region: Tensor,
    geometry: Sequence,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, of the pattern and of the matrices."""
    buckets = RegionBuckets(region, len(matrices))
    rows = _gather(x, pattern, region, buckets.location, *geometry, groups)
    filled = buckets.fill(grad, groups), buckets.split(rows, groups)
    grad_rows, grad_matrices = buckets.matmul_backward(*filled, matrices)
    grad_rows = grad_rows.transpose(1, 2).reshape(rows.shape)
    sampling = x, pattern, region, buckets.slot, *geometry, groups
    return *_gather_backward(grad_rows, *sampling), grad_matrices


# On the CPU: one region after the other, in tiles.


def _in_tiles(
    x: Tensor, pattern: Tensor, matrices: Tensor, region: Tensor, geometry: Sequence, groups: int
) -> Tensor:
    """As :func:`in_buckets`."""
    output = x.new_empty(len(region), matrices.shape[1])
    for tile in _feature_tiles(x, pattern, region, geometry):
        rows = _by_group(tile.features, groups)
        product = grouped_matmul(rows, matrices[tile.region], groups)
        output.index_copy_(0, tile.locations, product.to(output.dtype))
    return output


def _in_tiles_backward(
    grad: Tensor,
    x: Tensor,
    pattern: Tensor,
    matrices: Tensor,
    region: Tensor,
    geometry: Sequence,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`in_buckets_backward`."""
    gradients = grad_x, grad_pattern, grad_matrices = (
        torch.zeros_like(x),
        torch.zeros_like(pattern),
        torch.zeros_like(matrices),
    )
    for tile in _feature_tiles(x, pattern, region, geometry):
        pair = grad.index_select(0, tile.locations), _by_group(tile.features, groups)
        of_rows, of_matrix = grouped_matmul_backward(*pair, matrices[tile.region], groups)
        grad_matrices[tile.region] += of_matrix
        of_features = _from_group(of_rows, tile.features, groups)
        _features_backward(of_features, *tile.sampling, grad_x, grad_pattern)
    return gradients


class _Tile(NamedTuple):
    """Some locations of a region."""

    region: int
    locations: Tensor  # their indices
    features: Tensor  # (locations, 2, C), in a workspace that the next tile overwrites
    sampling: tuple  # arguments from which the features are computed


def _feature_tiles(
    x: Tensor, pattern: Tensor, region: Tensor, geometry: Sequence
) -> Iterator[_Tile]:
    """Yield the features of all locations, in tiles."""
    order, counts = sort_by_region(region, pattern.shape[1])
    step = max(1, min(max(counts, default=1), locations_per_tile(x, 2 * x.shape[1])))
    workspace = x.new_empty(step, 2, x.shape[1])
    first = 0
    for t, count in enumerate(counts):
        for begin in range(first, first + count, step):
            end = min(begin + step, first + count)
            features, locations = workspace[: end - begin], order[begin:end]
            sampling = x, pattern, region, order, *geometry, begin, end
            _features(*sampling, features)
            yield _Tile(t, locations, features, sampling)
        first += count


def _by_group(features: Tensor, groups: int) -> Tensor:
    """``(locations, 2, C)`` as rows, each group's two features together."""
    return features.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1)


def _from_group(rows: Tensor, features: Tensor, groups: int) -> Tensor:
    return rows.view(len(rows), groups, 2, -1).transpose(1, 2).reshape(features.shape).contiguous()


def inner_products(
    grad: Tensor, x: Tensor, pattern: Tensor, matrices: Tensor, geometry: Sequence, groups: int
) -> Tensor:
    """``<grad(x), response of region t at x>``, ``(locations, regions)``, in tiles of locations."""
    count, _, columns = matrices.shape
    # (g * regions * 2 C / g, out / g)
    by_group = matrices.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(0, 2)
    inner = []
    step = locations_per_tile(x, 2 * count * x.shape[1])
    for begin in range(0, len(grad), step):
        locations = slice(begin, min(begin + step, len(grad)))
        products = grouped_matmul(grad[locations], by_group, groups)
        products = products.view(-1, groups, count, 2, columns // 2)
        products = products.permute(0, 2, 3, 1, 4).flatten(3).contiguous()
        inner.append(_inner(products, x, pattern, *geometry, begin, locations.stop))
    if len(inner) == 1:
        return inner[0]
    return torch.cat(inner) if inner else pattern.new_empty(0, count)


_features = compiled("drconv_features", lambda *_: None)
_features_backward = compiled("drconv_features_backward", lambda *_: None)
_inner = compiled(
    "drconv_inner",
    lambda products, _, pattern, *__: pattern.new_empty(products.shape[0], pattern.shape[1]),
)
_gather = compiled(
    "drconv_gather",
    lambda input, _, __, location, *___: input.new_empty(len(location), 2 * input.shape[1]),
)
_gather_backward = compiled(
    "drconv_gather_backward",
    lambda _, input, pattern, *__: (torch.empty_like(input), torch.empty_like(pattern)),
)
