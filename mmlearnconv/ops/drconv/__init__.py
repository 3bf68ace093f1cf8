"""DRConv: dynamic region-aware convolution, every location with the filter of its region."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserValueError
from ..autograd import wants_gradient
from ..depthwise import convolve
from ..dispatch import (
    add_bias_and_format,
    check_devices,
    match_memory_format,
    to_autocast_dtype,
    use_compiled,
)
from ..extension import has_kernels_for
from ..geometry import Geometry, conv_output_size, geometry_of, tap_views
from .factorised import drconv_factorised
from .guide import nan_unless_finite, with_guide_gradient, with_guide_gradient_of_factors
from .regions import region_matmul, rows_to_map

__all__ = ["drconv2d", "drconv2d_factorised"]


def drconv2d(
    input: Tensor,
    guide: Tensor,
    filters: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    base: Tensor | None = None,
) -> Tensor:
    """Region-aware convolution with arbitrary dense filters.

    In the forward pass, location x uses filter ``argmax_t F_t(x)`` (Chen et al. 2021, Eq. 3-5). In
    the backward pass, ``softmax(F)`` replaces the one-hot mask: the guide's gradient is that of
    ``<dL/dO(x), response of filter t at x>`` through the softmax (Eq. 6-8). At locations where the
    guide's largest value is not finite, the output is NaN.

    Args:
        input: ``(N, C, H, W)``.
        guide: F, ``(N, regions, H', W')``.
        filters: ``(N, regions, out, C / groups, kH, kW)``.
        bias: ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``.
        base: a kernel that is added to all filters, ``(out, C / groups, kH, kW)``. Default:
            ``None``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices, the guide's N, H' and W' differ from those of the
            output.
    """
    check_devices(input=input, guide=guide, filters=filters, base=base, bias=bias)
    geometry = geometry_of(stride, padding, dilation, groups)
    size = conv_output_size(input.shape[2:], filters.shape[4:], *geometry)
    _check_guide(guide, input.shape[0], size)
    output = _with_filters(*to_autocast_dtype(input, filters), guide, geometry, size)
    return _add_base(output, base, bias, input, geometry)


def drconv2d_factorised(
    input: Tensor,
    guide: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    base: Tensor | None = None,
) -> Tensor:
    """Region-aware convolution with ``W_nt = filter_scale_t * pattern_nt + filter_bias_t``.

    Equals :func:`drconv2d` with those filters, gradients included, without building large filters:
    with ``x_uv`` the input under tap (u, v), the response of region t is ``filter_scale_t (sum_uv
    pattern_nt(u, v) x_uv) + filter_bias_t (sum_uv x_uv)``. These are two matrix products, as of 1x1
    convolutions, over the locations of each region in the whole batch. On the CPU, 1x1 filters are
    built if they have no more elements than the input, which saves one of the two products; on a
    GPU that would cost more launches than it saves.

    Args:
        input: ``(N, C, H, W)``.
        guide: ``(N, regions, H', W')``.
        pattern: ``(N, regions, kH, kW)``.
        filter_scale: ``(regions, out, C / groups)``.
        filter_bias: as ``filter_scale``.
        bias: of the output, ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``.
        base: a kernel that is added to all filters, ``(out, C / groups, kH, kW)``. Default:
            ``None``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices, the guide's N, H' and W' differ from those of the
            output.
    """
    check_devices(
        input=input,
        guide=guide,
        pattern=pattern,
        filter_scale=filter_scale,
        filter_bias=filter_bias,
        base=base,
        bias=bias,
    )
    geometry = geometry_of(stride, padding, dilation, groups)
    kernel_size, original = pattern.shape[2:], input
    size = conv_output_size(input.shape[2:], kernel_size, *geometry)
    _check_guide(guide, input.shape[0], size)
    if base is not None and kernel_size == (1, 1):
        filter_bias, base = filter_bias + base[..., 0, 0], None
    tensors = to_autocast_dtype(input, pattern, filter_scale, filter_bias)
    input, pattern, filter_scale, filter_bias = tensors
    on_gpu = has_kernels_for(input.device.type, "drconv_gather")
    if kernel_size == (1, 1) and filter_scale.numel() <= input[:1].numel() and not on_gpu:
        filters = torch.addcmul(filter_bias, filter_scale, pattern)[..., None, None]
        output = _with_filters(input, filters, guide, geometry, size)
    else:
        function = drconv_factorised if use_compiled(input) else _with_features
        output = function(input, guide, pattern, filter_scale, filter_bias, *geometry)
    return _add_base(output, base, bias, original, geometry)


def _check_guide(guide: Tensor, batch: int, size: Sequence[int]) -> None:
    if guide.ndim != 4 or (guide.shape[0], *guide.shape[2:]) != (batch, *size):
        raise UserValueError(
            f"guide: shape {tuple(guide.shape)}; must be (N, regions, H', W') with the output's "
            f"N={batch} and (H', W')={tuple(size)}"
        )


def _add_base(
    output: Tensor, base: Tensor | None, bias: Tensor | None, input: Tensor, geometry: Geometry
) -> Tensor:
    """The output, and that of a convolution with the base kernel; with the bias."""
    if base is None:
        return add_bias_and_format(output, bias, input)
    return match_memory_format(convolve(input, base, bias, *geometry).add_(output), input)


def _with_filters(
    input: Tensor, filters: Tensor, guide: Tensor, geometry: Geometry, size: Sequence[int]
) -> Tensor:
    """Rows under the taps, multiplied with the filters of their image and region."""
    stride, padding, dilation, groups = geometry
    if filters.shape[4:] == (1, 1):
        sides = padding[1], padding[1], padding[0], padding[0]
        padded = F.pad(input, sides) if any(sides) else input
        rows = padded[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1).flatten(1, 2)
    else:
        rows = F.unfold(input, tuple(filters.shape[4:]), dilation, padding, stride).transpose(1, 2)
    filters = filters.flatten(3)
    images, regions = filters.shape[:2]
    best, region = guide.flatten(2).max(1)
    own = region + regions * torch.arange(images, device=region.device)[:, None]
    output = region_matmul(rows.flatten(0, 1), filters.flatten(0, 1), own.flatten(), groups)
    output = output.view(images, rows.shape[1], filters.shape[2])
    output = output + nan_unless_finite(best).to(output.dtype)[..., None]
    if wants_gradient(rows, filters, guide):
        output = with_guide_gradient(output, guide.flatten(2), rows, filters, groups)
    return rows_to_map(output, size, input)


def _with_features(
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
    """:func:`drconv2d_factorised` on PyTorch's own operations."""
    best, region = guide.max(1)
    size, taps = region.shape[1:], pattern.shape[2] * pattern.shape[3]
    index = region.flatten(1)[:, None].expand(-1, taps, -1)
    shares = pattern.flatten(2).transpose(1, 2).gather(2, index).unflatten(2, size)
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    weighted = plain = 0
    for tap, patch in enumerate(tap_views(padded, pattern.shape[2:], stride, dilation, size)):
        weighted = weighted + shares[:, tap, None] * patch
        plain = plain + patch
    rows = torch.stack([weighted, plain]).permute(1, 3, 4, 0, 2).flatten(0, 2)
    rows = rows.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1)
    filters = torch.cat([filter_scale, filter_bias], 2)
    output = region_matmul(rows, filters, region.flatten(), groups)
    output = output.view(input.shape[0], size[0] * size[1], filter_scale.shape[1])
    output = output + nan_unless_finite(best).to(output.dtype).flatten(1)[..., None]
    output = rows_to_map(output, size, input)
    if not wants_gradient(rows, filters, guide):
        return output
    factors = padded, plain, pattern, filter_scale, filter_bias
    return with_guide_gradient_of_factors(output, guide, *factors, stride, dilation, groups)
