"""Region-aware convolution: every location has the filter of its region."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .autocast import to_autocast_dtype
from .per_image import conv2d_per_image
from .reference import im2col


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
    """
    input, filters = to_autocast_dtype(input, filters)
    images, regions = filters.shape[:2]
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    columns = im2col(input, filters.shape[4:], *geometry)
    region = guide.argmax(1)
    own = region + regions * torch.arange(images, device=region.device)[:, None, None]
    filters_of_all = filters.flatten(0, 1).flatten(3)
    if not _wants_gradient(columns, filters_of_all, guide):
        return region_product(columns, filters_of_all, own, groups)
    output = _RegionProduct.apply(columns, filters_of_all, own, groups)

    def response(t: int) -> Tensor:
        one = filters[:, t]
        numel = one[0].numel() if images else 1
        return conv2d_per_image(input, one, lambda f: f, numel, *geometry, groups)

    return _GuideGradient.apply(output, guide, response)


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

    Equals :func:`drconv2d` with those filters, gradients included, and never builds one: with
    ``x_uv`` the input under tap (u, v), the response of region t is ``value_t (sum_uv pattern_nt(u,
    v) x_uv) + offset_t (sum_uv x_uv)``, two products of 1x1 size over the locations of each region,
    across the whole batch.

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
    """
    input, pattern, value, offset = to_autocast_dtype(input, pattern, value, offset)
    region = guide.argmax(1)
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
    filters = torch.stack([value, offset], 3)
    features = torch.stack([weighted, plain], 2)
    if not _wants_gradient(features, filters, guide):
        return region_product(features, filters, region, groups)
    output = _RegionProduct.apply(features, filters, region, groups)

    def response(t: int) -> Tensor:
        own = conv2d_per_image(
            padded,
            pattern[:, t],
            lambda p: p[:, None, None].expand(-1, input.shape[1], 1, -1, -1),
            input.shape[1] * taps,
            stride,
            (0, 0),
            dilation,
            input.shape[1],
        )
        return F.conv2d(own, value[t, ..., None, None], groups=groups) + F.conv2d(
            plain, offset[t, ..., None, None], groups=groups
        )

    return _GuideGradient.apply(output, guide, response)


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


def _wants_gradient(*tensors: Tensor) -> bool:
    # A trace, by which complexity is counted, does not see into a custom Function.
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wants and not torch.jit.is_tracing()


def region_product(features: Tensor, filters: Tensor, region: Tensor, groups: int) -> Tensor:
    """``O(x) = filters[region(x)] features(x)``, the locations of a region in one product.

    Args:
        features: ``(N, C, K, H', W')``.
        filters: ``(regions, out, C / groups, K)``.
        region: ``(N, H', W')``, numbers of filters.
        groups: of channels.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    order, counts = _order(region, len(filters))
    return _product_in_order(features, filters, order, counts, groups)


def _order(region: Tensor, regions: int) -> tuple[Tensor, list[int]]:
    """Locations sorted by region, and how many each region has."""
    flat = region.flatten()
    return flat.argsort(stable=True), flat.bincount(minlength=regions).tolist()


def _product_in_order(
    features: Tensor, filters: Tensor, order: Tensor, counts: list[int], groups: int
) -> Tensor:
    rows = _sorted_rows(features.flatten(1, 2), order, groups)
    # (regions, g, C / g * K, out / g)
    matrices = filters.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3)
    segments = zip(rows.split(counts, 1), matrices, counts, strict=True)
    products = [torch.bmm(segment, matrix) for segment, matrix, count in segments if count]
    output = torch.cat(products, 1) if products else rows.new_zeros(groups, 0, matrices.shape[3])
    return _unsorted_map(output, order, features.shape[0], features.shape[3:])


class _RegionProduct(torch.autograd.Function):
    """:func:`region_product` with the gradients of features and filters."""

    @staticmethod
    def forward(ctx, features: Tensor, filters: Tensor, region: Tensor, groups: int) -> Tensor:
        order, counts = _order(region, len(filters))
        ctx.save_for_backward(features, filters, order)
        ctx.counts, ctx.groups = counts, groups
        return _product_in_order(features, filters, order, counts, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, filters, order = ctx.saved_tensors
        rows = _sorted_rows(features.flatten(1, 2), order, ctx.groups)
        grad_rows = _sorted_rows(grad, order, ctx.groups)
        matrices = filters.flatten(2).unflatten(1, (ctx.groups, -1))
        grad_features = torch.empty_like(rows)
        grad_matrices = torch.zeros_like(matrices)
        begin = 0
        for t, count in enumerate(ctx.counts):
            if count:
                segment = slice(begin, begin + count)
                torch.bmm(grad_rows[:, segment], matrices[t], out=grad_features[:, segment])
                torch.bmm(grad_rows[:, segment].mT, rows[:, segment], out=grad_matrices[t])
                begin += count
        grad_features = _unsorted_map(grad_features, order, features.shape[0], features.shape[3:])
        return (
            grad_features.reshape(features.shape),
            grad_matrices.reshape(filters.shape),
            None,
            None,
        )


def _sorted_rows(maps: Tensor, order: Tensor, groups: int) -> Tensor:
    """``(N, g * c, H, W)`` as ``(g, locations, c)`` in the given order of locations."""
    rows = maps.unflatten(1, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    return rows.index_select(0, order).transpose(0, 1).contiguous()


def _unsorted_map(rows: Tensor, order: Tensor, batch: int, size: Sequence[int]) -> Tensor:
    """The inverse of :func:`_sorted_rows`."""
    unsorted = torch.empty_like(rows).index_copy_(1, order, rows)
    channels = rows.shape[0] * rows.shape[2]
    return unsorted.permute(1, 0, 2).reshape(batch, *size, channels).permute(0, 3, 1, 2)


class _GuideGradient(torch.autograd.Function):
    """The identity on ``output``; gives the guide the gradient of Eq. 6-8, region by region."""

    @staticmethod
    def forward(ctx, output: Tensor, guide: Tensor, response: Callable[[int], Tensor]) -> Tensor:
        ctx.save_for_backward(guide)
        ctx.response = response
        return output.view_as(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            return grad, None, None
        (guide,) = ctx.saved_tensors
        soft = guide.softmax(1)
        # One region's response at a time: all of them would be as many outputs.
        inner = [(grad * ctx.response(t)).sum(1) for t in range(guide.shape[1])]
        inner = torch.stack(inner, 1).to(soft.dtype)
        return grad, soft * (inner - (soft * inner).sum(1, keepdim=True)), None
