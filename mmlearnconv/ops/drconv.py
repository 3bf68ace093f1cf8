"""Region-aware convolution: every location has the filter of its region."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .autocast import to_autocast_dtype, without_autocast
from .autograd import differentiable, once
from .extension import has_kernels
from .layout import empty_like, lay_out
from .per_image import conv2d_per_image
from .product import rows_product, rows_product_backward
from .reference import conv_output_size

# Numbers that one tile of intermediate rows may take: 4 MB in float32; on a GPU, where a tile
# costs launches and not page faults, 64 MB.
_TILE = 2**20
_TILE_ON_GPU = 2**24


def drconv2d(
    input: Tensor,
    guide: Tensor,
    filters: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Region-aware convolution with any filters, of the size of a convolution.

    The definition, with the arguments' shapes, is :func:`mmlearnconv.ops.reference.drconv2d`.

    Raises:
        ValueError: the guide has not the output's rows and columns.
    """
    input, filters = to_autocast_dtype(input, filters)
    size = conv_output_size(input.shape[2:], filters.shape[4:], stride, padding, dilation)
    _check_guide(guide, input.shape[0], size)
    if filters.shape[4:] == (1, 1):
        sides = padding[1], padding[1], padding[0], padding[0]
        seen = F.pad(input, sides) if any(sides) else input
        rows = seen[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1).flatten(1, 2)
    else:
        geometry = tuple(dilation), tuple(padding), tuple(stride)
        rows = F.unfold(input, tuple(filters.shape[4:]), *geometry).transpose(1, 2)
    filters = filters.flatten(3)
    images, regions = filters.shape[:2]
    best, region = guide.flatten(2).max(1)
    own = region + regions * torch.arange(images, device=region.device)[:, None]
    output = _region_product(rows.flatten(0, 1), filters.flatten(0, 1), own.flatten(), groups)
    output = output.view(images, rows.shape[1], filters.shape[2])
    output = output + _nan_unless_finite(best).to(output.dtype)[..., None]
    if _wants_gradient(rows, filters, guide):
        output = _GuideGradient.apply(output, guide.flatten(2), rows, filters, groups)
    return _as_map(output, size, input)


def drconv2d_factorised(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Region-aware convolution with the filters ``W_nt = value_t * pattern_nt + offset_t``.

    Equals :func:`drconv2d` with those filters, gradients included, and builds none that would be
    large: with ``x_uv`` the input under tap (u, v), the response of region t is ``value_t (sum_uv
    pattern_nt(u, v) x_uv) + offset_t (sum_uv x_uv)``, two products of 1x1 size over the locations
    of each region, across the whole batch. Filters of 1x1 are built where they are fewer numbers
    than the input, which saves one of the two products.

    Args:
        input: ``(N, C, H, W)``.
        guide: ``(N, regions, H', W')``.
        pattern: ``(N, regions, kH, kW)``.
        value: ``(regions, out, C / groups)``.
        offset: as ``value``.
        stride, padding, dilation: rows and columns each.
        groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: the guide has not the output's rows and columns.
    """
    size = conv_output_size(input.shape[2:], pattern.shape[2:], stride, padding, dilation)
    _check_guide(guide, input.shape[0], size)
    input, pattern, value, offset = to_autocast_dtype(input, pattern, value, offset)
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if pattern.shape[2:] == (1, 1) and value.numel() <= input[:1].numel():
        filters = torch.addcmul(offset, value, pattern)[..., None, None]
        return drconv2d(input, guide, filters, *geometry, groups)
    if has_kernels(input):
        return _factorised(input, guide, pattern, value, offset, *geometry, groups)
    return _with_features(input, guide, pattern, value, offset, *geometry, groups)


def _check_guide(guide: Tensor, batch: int, size: Sequence[int]) -> None:
    if guide.ndim != 4 or (guide.shape[0], *guide.shape[2:]) != (batch, *size):
        raise ValueError(
            f"guide: shape {tuple(guide.shape)}; must be (N, regions, H', W') with the output's "
            f"N={batch} and (H', W')={tuple(size)}"
        )


def _nan_unless_finite(best: Tensor) -> Tensor:
    """What outputs are added where this is the guide's largest number: else no region is theirs."""
    return (best - best).detach()


def _wants_gradient(*tensors: Tensor) -> bool:
    # A trace, by which complexity is counted, does not see into a custom Function.
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wants and not torch.jit.is_tracing()


def _as_map(rows: Tensor, size: Sequence[int], input: Tensor) -> Tensor:
    """``(N, places, out)`` as ``(N, out, H', W')``, laid out as the input is."""
    maps = rows.reshape(rows.shape[0], *size, rows.shape[2])
    return lay_out(maps.permute(0, 3, 1, 2), input)


class _GuideGradient(torch.autograd.Function):
    """The identity on ``output``; gives the guide the gradient of Eq. 6-8."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        output: Tensor, guide: Tensor, rows: Tensor, filters: Tensor, groups: int
    ) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, *tensors, ctx.groups = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_guide = None
        if ctx.needs_input_grad[1]:
            of_guide = _guide_gradient(grad, *ctx.saved_tensors, ctx.groups)
        return grad, of_guide, None, None, None


@torch.library.custom_op(
    "mmlearnconv::drconv_guide_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor guide, Tensor rows, Tensor filters, SymInt groups) -> Tensor",
)
def _guide_backward(
    grad: Tensor, guide: Tensor, rows: Tensor, filters: Tensor, groups: int
) -> Tensor:
    """Gradient of the guide ``(N, regions, places)``."""
    regions, out = filters.shape[1:3]
    inner = torch.empty_like(guide, dtype=torch.promote_types(rows.dtype, torch.float32))
    # Some locations' responses at a time: all of them would be as many outputs.
    step = _tile(rows, regions * out)
    with without_autocast(rows):
        for n in range(len(rows)):
            for begin in range(0, rows.shape[1], step):
                places = slice(begin, begin + step)
                # Filters of a group side by side: (g, regions * out / g, K).
                of_image = filters[n].unflatten(1, (groups, -1)).transpose(0, 1).flatten(1, 2)
                responses = _grouped_product(rows[n, places], of_image.flatten(0, 1), groups)
                responses = responses.view(len(responses), groups, regions, -1)
                seen = grad[n, places].unflatten(1, (groups, 1, -1)).to(responses.dtype)
                inner[n, :, places] = torch.linalg.vecdot(responses, seen).sum(1).T.to(inner.dtype)
        return _through_softmax(guide, inner)


_guide_backward.register_fake(lambda grad, guide, *_: torch.empty_like(guide))
_guide_gradient = once("drconv_guide_backward")


def _through_softmax(guide: Tensor, inner: Tensor) -> Tensor:
    """Gradient of the guide ``(N, regions, ...)`` from that of its softmax, in the latter's dtype.

    Half precision would overflow before the softmax's small numbers bring it down.
    """
    soft = guide.to(inner.dtype).softmax(1)
    return (soft * (inner - (soft * inner).sum(1, keepdim=True))).to(guide.dtype)


def _grouped_product(rows: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """``(places, g * K)`` by ``(out, K)`` to ``(places, out)``, a group's rows by its outputs."""
    if groups == 1:
        return rows_product(rows, matrix)
    rows = rows.unflatten(1, (groups, -1)).transpose(0, 1)
    return (rows @ matrix.unflatten(0, (groups, -1)).mT).transpose(0, 1).flatten(1)


def _grouped_product_backward(
    grad: Tensor, rows: Tensor, matrix: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`_grouped_product`: of the rows, and of the matrix."""
    if groups == 1:
        return rows_product_backward(grad, rows, matrix)
    grad = grad.unflatten(1, (groups, -1)).transpose(0, 1)
    rows = rows.unflatten(1, (groups, -1)).transpose(0, 1)
    grad_rows = (grad @ matrix.unflatten(0, (groups, -1))).transpose(0, 1).flatten(1)
    return grad_rows, (grad.mT @ rows).flatten(0, 1)


def _order(region: Tensor, regions: int) -> tuple[Tensor, list[int]]:
    """Locations sorted by region, and how many each region has."""
    return region.argsort(stable=True), region.bincount(minlength=regions).tolist()


def _counts_on_host(tensor: Tensor) -> bool:
    """Whether to read regions' sizes, which on a GPU would wait for it and end a CUDA graph."""
    return tensor.device.type == "cpu"


def _tile(tensor: Tensor, numbers: int) -> int:
    """How many locations of so many numbers make a tile."""
    most = _TILE if _counts_on_host(tensor) else _TILE_ON_GPU
    return max(1, most // max(1, numbers))


class _Blocks:
    """Rows grouped by region on their device, in blocks of one region each.

    Regions are padded to whole blocks, so that how many blocks there are does not depend on the
    data, and products with a block's matrix are one batched product.

    Args:
        region: ``(places,)``, of each row.
        regions: their number.
    """

    def __init__(self, region: Tensor, regions: int) -> None:
        places = len(region)
        # A block's copy of its matrix should not cost more than its rows.
        self.size = min(256, max(16, places // max(1, regions)))
        self.count = -(-places // self.size) + regions
        region, order = region.sort(stable=True)
        numbers = torch.arange(max(places, self.count, regions + 1), device=region.device)
        starts = torch.searchsorted(region, numbers[: regions + 1])
        ends = ((starts.diff() + self.size - 1) // self.size).cumsum(0)
        first = F.pad(ends, (1, 0))[region]
        # Blocks after the last region's hold zeros: any region will do for them.
        self.region = torch.searchsorted(ends, numbers[: self.count], right=True)
        self.region.clamp_(max=regions - 1)
        slot = first * self.size + numbers[:places] - starts[region]
        self.slot = torch.empty_like(slot).scatter_(0, order, slot)

    def fill(self, rows: Tensor, groups: int) -> Tensor:
        """``(places, groups * K)`` as ``(blocks, groups, size, K)``."""
        filled = rows.new_zeros(self.count * self.size, rows.shape[1])
        filled.index_copy_(0, self.slot, rows)
        return filled.view(self.count, self.size, groups, -1).transpose(1, 2)

    def rows(self, filled: Tensor) -> Tensor:
        """The inverse of :meth:`fill`."""
        return filled.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, self.slot)

    def matrices(self, matrices: Tensor, groups: int) -> Tensor:
        """``(regions, out, K)`` as each block's ``(blocks, groups, out / groups, K)``."""
        return matrices.index_select(0, self.region).unflatten(1, (groups, -1))


def _product_of_regions(rows: Tensor, filters: Tensor, region: Tensor, groups: int) -> Tensor:
    """``O_i = filters[region_i] rows_i``, the locations of a region in one product.

    Args:
        rows: ``(places, groups * K)``.
        filters: ``(regions, out, K)``.
        region: ``(places,)``, numbers of filters.
        groups: of rows and outputs.

    Returns:
        Tensor: ``(places, out)``.
    """
    if len(rows) and not _counts_on_host(rows):
        blocks = _Blocks(region, len(filters))
        filled = blocks.fill(rows, groups)
        return blocks.rows(filled @ blocks.matrices(filters, groups).mT).to(rows.dtype)
    order, counts = _order(region, len(filters))
    output = rows.new_empty(len(rows), filters.shape[1])
    for places, matrix in zip(order.split(counts), filters, strict=True):
        if len(places):
            product = _grouped_product(rows.index_select(0, places), matrix, groups)
            output.index_copy_(0, places, product.to(output.dtype))
    return output


def _product_of_regions_backward(
    grad: Tensor, rows: Tensor, filters: Tensor, region: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`_product_of_regions`: of the rows, and of the filters."""
    grad_filters = torch.zeros_like(filters)
    if len(rows) and not _counts_on_host(rows):
        blocks = _Blocks(region, len(filters))
        grad, rows = blocks.fill(grad, groups), blocks.fill(rows, groups)
        grad_filters.index_add_(0, blocks.region, (grad.mT @ rows).flatten(1, 2))
        return blocks.rows(grad @ blocks.matrices(filters, groups)), grad_filters
    order, counts = _order(region, len(filters))
    grad_rows = torch.empty_like(rows)
    for t, places in enumerate(order.split(counts)):
        if len(places):
            seen = grad.index_select(0, places), rows.index_select(0, places)
            of_rows, grad_filters[t] = _grouped_product_backward(*seen, filters[t], groups)
            grad_rows.index_copy_(0, places, of_rows)
    return grad_rows, grad_filters


_region_product_operator = torch.library.custom_op(
    "mmlearnconv::region_product",
    _product_of_regions,
    mutates_args=(),
    schema="(Tensor rows, Tensor filters, Tensor region, SymInt groups) -> Tensor",
)
_region_product_backward = torch.library.custom_op(
    "mmlearnconv::region_product_backward",
    _product_of_regions_backward,
    mutates_args=(),
    schema="(Tensor grad, Tensor rows, Tensor filters, Tensor region, SymInt groups) "
    "-> (Tensor, Tensor)",
)
_region_product_operator.register_fake(
    lambda rows, filters, *_: rows.new_empty(rows.shape[0], filters.shape[1])
)
_region_product_backward.register_fake(
    lambda grad, rows, filters, region, groups: (
        torch.empty_like(rows),
        torch.empty_like(filters),
    )
)
_region_product_gradients = once("region_product_backward")


def _region_product_context(ctx, inputs, output) -> None:
    *tensors, ctx.groups = inputs
    ctx.save_for_backward(*tensors)


_differentiable_region_product = differentiable(
    "region_product",
    lambda ctx, grad: (
        *_region_product_gradients(grad, *ctx.saved_tensors, ctx.groups),
        None,
        None,
    ),
    _region_product_context,
)


def _region_product(rows: Tensor, filters: Tensor, region: Tensor, groups: int) -> Tensor:
    # As an operator its sizes, which the data say, do not break a compiled graph.
    traced = torch.jit.is_tracing()
    product = _product_of_regions if traced else _differentiable_region_product
    return product(rows, filters, region, groups)


@register_flop_formula(torch.ops.mmlearnconv.region_product)
def _region_product_flops(rows, filters, *_, out_shape, **__) -> int:
    return 2 * prod(out_shape) * filters[2]


_FACTORISED = (
    "Tensor input, Tensor guide, Tensor pattern, Tensor value, Tensor offset, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups"
)


@torch.library.custom_op(
    "mmlearnconv::drconv_factorised", mutates_args=(), schema=f"({_FACTORISED}) -> Tensor"
)
def _factorised_forward(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    x, pattern, matrices = _computed(input, pattern, value, offset)
    best, region = guide.max(1)
    region = region.flatten()
    geometry = guide.shape[2:], stride, padding, dilation
    output = x.new_empty(len(region), value.shape[1])
    with without_autocast(x):
        for tile in _feature_tiles(x, pattern, region, geometry):
            rows = _by_group(tile.features, groups)
            if isinstance(tile.region, int):
                product = _grouped_product(rows, matrices[tile.region], groups)
            else:
                product = _product_of_regions(rows, matrices, tile.region, groups)
            output.index_copy_(0, tile.places, product.to(output.dtype))
    output += _nan_unless_finite(best).to(output.dtype).view(-1, 1)
    output = output.view(len(input), guide.shape[2:].numel(), value.shape[1])
    return _as_map(output, guide.shape[2:], input).to(input.dtype)


@torch.library.custom_op(
    "mmlearnconv::drconv_factorised_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_FACTORISED}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _factorised_backward(
    grad: Tensor,
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, shares, matrices = _computed(input, pattern, value, offset)
    region = guide.max(1).indices.flatten()
    geometry = guide.shape[2:], stride, padding, dilation
    grad = grad.to(x.dtype).permute(0, 2, 3, 1).flatten(0, 2)
    grad_x, grad_shares = torch.zeros_like(x), torch.zeros_like(shares)
    grad_matrices = torch.zeros_like(matrices)
    with without_autocast(x):
        for tile in _feature_tiles(x, shares, region, geometry):
            seen = grad.index_select(0, tile.places), _by_group(tile.features, groups)
            if isinstance(tile.region, int):
                own = matrices[tile.region]
                of_rows, of_matrix = _grouped_product_backward(*seen, own, groups)
                grad_matrices[tile.region] += of_matrix
            else:
                of_rows, of_matrices = _product_of_regions_backward(
                    *seen, matrices, tile.region, groups
                )
                grad_matrices += of_matrices
            of_features = _from_group(of_rows, tile.features, groups)
            torch.ops.mmlearnconv.drconv_features_backward(
                of_features, *tile.sampling, grad_x, grad_shares
            )
        inner = _inner_products(grad, x, shares, value, offset, geometry, groups)
    inner = inner.view(len(x), *guide.shape[2:], len(value)).permute(0, 3, 1, 2)
    grad_value, grad_offset = grad_matrices.unflatten(2, (2, -1)).unbind(2)
    return (
        lay_out(grad_x.to(input.dtype), input),
        _through_softmax(guide, inner).contiguous(),
        grad_shares.to(pattern.dtype),
        grad_value.to(value.dtype, copy=True).contiguous(),
        grad_offset.to(offset.dtype, copy=True).contiguous(),
    )


def _computed(
    input: Tensor, pattern: Tensor, value: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Input and pattern as the kernels read them, and the matrices ``(regions, out, 2 C / g)``."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    x = input.to(dtype).contiguous(memory_format=torch.channels_last)
    return x, pattern.to(dtype).contiguous(), torch.cat([value, offset], 2).to(dtype)


class _Tile(NamedTuple):
    """Some locations, sorted by region."""

    region: int | Tensor  # of all of them, or of each
    places: Tensor  # which they are
    features: Tensor  # (places, 2, C), in room that the next tile takes over
    sampling: tuple  # what the features are made from


def _feature_tiles(
    x: Tensor, pattern: Tensor, region: Tensor, geometry: Sequence
) -> Iterator[_Tile]:
    """All locations' features, as many at a time as are worth it."""
    on_host = _counts_on_host(x)
    if on_host:
        order, counts = _order(region, pattern.shape[1])
    else:
        order, counts = region.argsort(stable=True), [len(region)]
    most = max(1, min(max(counts, default=1), _tile(x, 2 * x.shape[1])))
    room = x.new_empty(most, 2, x.shape[1])
    first = 0
    for t, count in enumerate(counts):
        for begin in range(first, first + count, most):
            end = min(begin + most, first + count)
            features, places = room[: end - begin], order[begin:end]
            sampling = x, pattern, region, order, *geometry, begin, end
            torch.ops.mmlearnconv.drconv_features(*sampling, features)
            yield _Tile(t if on_host else region[places], places, features, sampling)
        first += count


def _by_group(features: Tensor, groups: int) -> Tensor:
    """``(places, 2, C)`` as rows, each group's two features together."""
    return features.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1)


def _from_group(rows: Tensor, features: Tensor, groups: int) -> Tensor:
    return rows.view(len(rows), groups, 2, -1).transpose(1, 2).reshape(features.shape).contiguous()


def _inner_products(
    grad: Tensor,
    x: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    geometry: Sequence,
    groups: int,
) -> Tensor:
    """``<grad(x), response of region t at x>``, ``(places, regions)``, some places at a time."""
    # (g, 2, regions, C / g, out / g)
    both = torch.stack([value, offset]).to(x.dtype).unflatten(2, (groups, -1))
    both = both.permute(2, 0, 1, 4, 3)
    inner = grad.new_empty(len(grad), len(value))
    step = _tile(x, 2 * len(value) * x.shape[1])
    for begin in range(0, len(grad), step):
        places = slice(begin, min(begin + step, len(grad)))
        products = _grouped_product(grad[places], both.flatten(1, 3).flatten(0, 1), groups)
        products = products.view(-1, groups, 2, len(value), both.shape[3])
        products = products.permute(0, 2, 3, 1, 4).flatten(3).contiguous()
        inner[places] = torch.ops.mmlearnconv.drconv_inner(
            products, x, pattern, *geometry, begin, places.stop
        )
    return inner


@_factorised_forward.register_fake
def _(input, guide, pattern, value, offset, stride, padding, dilation, groups):
    return empty_like(input, (input.shape[0], value.shape[1], *guide.shape[2:]))


@_factorised_backward.register_fake
def _(grad, input, guide, pattern, value, offset, *_):
    plain = (t.new_empty(t.shape) for t in (guide, pattern, value, offset))
    return empty_like(input, input.shape), *plain


def _factorised_context(ctx, inputs, output) -> None:
    *tensors, stride, padding, dilation, groups = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = stride, padding, dilation, groups


_factorised_gradients = once("drconv_factorised_backward")
_factorised = differentiable(
    "drconv_factorised",
    lambda ctx, grad: (
        *_factorised_gradients(grad, *ctx.saved_tensors, *ctx.geometry),
        *(None,) * 4,
    ),
    _factorised_context,
)


@register_flop_formula(torch.ops.mmlearnconv.drconv_factorised)
def _factorised_flops(input, guide, pattern, value, *_, out_shape, **__) -> int:
    places = prod(guide) // guide[1]
    return 2 * places * (2 * value[1] * value[2] + input[1] * pattern[2] * pattern[3])


def _with_features(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """:func:`drconv2d_factorised` on PyTorch's own operations."""
    best, region = guide.max(1)
    taps = pattern.shape[2] * pattern.shape[3]
    index = region.flatten(1)[:, None].expand(-1, taps, -1)
    shares = pattern.flatten(2).transpose(1, 2).gather(2, index).unflatten(2, region.shape[1:])
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    weighted = plain = 0
    for tap, seen in enumerate(
        _taps(padded, pattern.shape[2:], stride, dilation, region.shape[1:])
    ):
        weighted = weighted + shares[:, tap, None] * seen
        plain = plain + seen
    rows = torch.stack([weighted, plain]).permute(1, 3, 4, 0, 2).flatten(0, 2)
    filters = torch.cat([value, offset], 2)
    output = _region_product(_by_group(rows, groups), filters, region.flatten(), groups)
    output = output.view(input.shape[0], region.shape[1] * region.shape[2], value.shape[1])
    output = output + _nan_unless_finite(best).to(output.dtype).flatten(1)[..., None]
    output = _as_map(output, region.shape[1:], input)
    if not _wants_gradient(rows, filters, guide):
        return output

    tensors = padded, plain, pattern, value, offset
    return _GuideGradientByResponse.apply(output, guide, *tensors, stride, dilation, groups)


class _GuideGradientByResponse(torch.autograd.Function):
    """:class:`_GuideGradient` from each region's response to the whole batch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, *_: Tensor | Sequence[int] | int) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, *tensors, stride, dilation, groups = inputs
        ctx.save_for_backward(*tensors)
        ctx.geometry = stride, dilation, groups

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, _response_gradient(grad, *ctx.saved_tensors, *ctx.geometry), *(None,) * 8


@torch.library.custom_op(
    "mmlearnconv::drconv_response_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor guide, Tensor padded, Tensor plain, Tensor pattern, Tensor value, "
    "Tensor offset, SymInt[] stride, SymInt[] dilation, SymInt groups) -> Tensor",
)
def _response_backward(
    grad: Tensor,
    guide: Tensor,
    padded: Tensor,
    plain: Tensor,
    pattern: Tensor,
    value: Tensor,
    offset: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Gradient of the guide, from one region's response at a time: all would be as many outputs."""
    channels = padded.shape[1]
    inner = []
    with without_autocast(padded):
        for own, of_value, of_offset in zip(pattern.unbind(1), value, offset, strict=True):
            weighted = conv2d_per_image(
                padded,
                own,
                lambda p: p[:, None, None].expand(-1, channels, 1, -1, -1),
                channels * own[:1].numel(),
                stride,
                (0, 0),
                dilation,
                channels,
            )
            response = F.conv2d(weighted, of_value[..., None, None], groups=groups)
            response += F.conv2d(plain, of_offset[..., None, None], groups=groups)
            dtype = torch.promote_types(grad.dtype, torch.float32)
            inner.append((grad.to(dtype) * response).sum(1))
        return _through_softmax(guide, torch.stack(inner, 1))


_response_backward.register_fake(lambda grad, guide, *_: guide.new_empty(guide.shape))
_response_gradient = once("drconv_response_backward")


def _taps(
    padded: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
) -> list[Tensor]:
    """The padded input under each tap, as views."""
    views = []
    for u in range(kernel_size[0]):
        for v in range(kernel_size[1]):
            top, left = u * dilation[0], v * dilation[1]
            bottom = top + (output_size[0] - 1) * stride[0] + 1
            right = left + (output_size[1] - 1) * stride[1] + 1
            views.append(padded[:, :, top : bottom : stride[0], left : right : stride[1]])
    return views
