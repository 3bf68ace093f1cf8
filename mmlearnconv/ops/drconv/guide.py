"""The gradient of DRConv's guide, which its paper defines (Eq. 6-8)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import define, forbid_second_derivative
from ..dispatch import accumulate_dtype, without_autocast
from ..dynamic_kernel import conv2d_per_sample
from .regions import grouped_matmul, locations_per_tile


def with_guide_gradient(
    output: Tensor, guide: Tensor, rows: Tensor, filters: Tensor, groups: int
) -> Tensor:
    """Return the output unchanged, with a gradient that also reaches the guide.

    The guide's gradient is ``<dL/dO(x), response of filter t at x>`` through the guide's softmax.

    Args:
        output: ``(N, locations, out)``.
        guide: ``(N, regions, locations)``.
        rows: the input under the filters at each location, ``(N, locations, groups * K)``.
        filters: ``(N, regions, out, K)``.
        groups: number of groups of the convolution.
    """
    return _FromFilters.apply(output, guide, rows, filters, groups)


def with_guide_gradient_of_factors(
    output: Tensor,
    guide: Tensor,
    padded: Tensor,
    plain: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """:func:`with_guide_gradient` for ``(N, out, H', W')`` and filters that are not built.

    Args:
        output: ``(N, out, H', W')``.
        guide: ``(N, regions, H', W')``.
        padded: the input with its padding.
        plain: its sum under all taps, ``(N, C, H', W')``.
        pattern, filter_scale, filter_bias, stride, dilation, groups: as ``drconv2d_factorised``.
    """
    tensors = padded, plain, pattern, filter_scale, filter_bias
    return _FromFactors.apply(output, guide, *tensors, stride, dilation, groups)


def nan_unless_finite(best: Tensor) -> Tensor:
    """NaN where the guide's largest value is not finite, else zero; to be added to the outputs."""
    return (best - best).detach()


def through_softmax(guide: Tensor, inner: Tensor) -> Tensor:
    """Gradient of the guide ``(N, regions, ...)`` from the gradient of its softmax, ``inner``.

    Computed in the dtype of ``inner`` and returned in that of the guide: half precision would
    overflow before the small probabilities of the softmax scale the values down.
    """
    soft = guide.softmax(1, dtype=inner.dtype)
    # As softmax's own derivative does it.
    return torch._softmax_backward_data(inner, soft, 1, inner.dtype).to(guide.dtype)


class _FromFilters(torch.autograd.Function):
    """The identity on the output."""

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
            of_guide = _gradient_from_filters(grad, *ctx.saved_tensors, ctx.groups)
        return grad, of_guide, None, None, None


@define(
    "drconv_guide_backward",
    "(Tensor grad, Tensor guide, Tensor rows, Tensor filters, SymInt groups) -> Tensor",
    lambda grad, guide, *_: torch.empty_like(guide),
)
def _from_filters(
    grad: Tensor, guide: Tensor, rows: Tensor, filters: Tensor, groups: int
) -> Tensor:
    regions, out = filters.shape[1:3]
    inner = torch.empty_like(guide, dtype=accumulate_dtype(rows.dtype))
    # In tiles of locations: all responses together need `regions` times the output's memory.
    step = locations_per_tile(rows, regions * out)
    with without_autocast(rows):
        for n in range(len(rows)):
            for begin in range(0, rows.shape[1], step):
                tile = slice(begin, begin + step)
                # Filters of a group side by side: (g, regions * out / g, K).
                of_image = filters[n].unflatten(1, (groups, -1)).transpose(0, 1).flatten(1, 2)
                responses = grouped_matmul(rows[n, tile], of_image.flatten(0, 1), groups)
                responses = responses.view(len(responses), groups, regions, -1)
                own = grad[n, tile].unflatten(1, (groups, 1, -1)).to(responses.dtype)
                inner[n, :, tile] = torch.linalg.vecdot(responses, own).sum(1).T.to(inner.dtype)
        return through_softmax(guide, inner)


_gradient_from_filters = forbid_second_derivative("drconv_guide_backward")


class _FromFactors(torch.autograd.Function):
    """The identity on the output."""

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
        of_guide = _gradient_from_factors(grad, *ctx.saved_tensors, *ctx.geometry)
        return grad, of_guide, *(None,) * 8


@define(
    "drconv_factors_backward",
    "(Tensor grad, Tensor guide, Tensor padded, Tensor plain, Tensor pattern, Tensor filter_scale, "
    "Tensor filter_bias, SymInt[] stride, SymInt[] dilation, SymInt groups) -> Tensor",
    lambda grad, guide, *_: guide.new_empty(guide.shape),
)
def _from_factors(
    grad: Tensor,
    guide: Tensor,
    padded: Tensor,
    plain: Tensor,
    pattern: Tensor,
    filter_scale: Tensor,
    filter_bias: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """One region at a time: all responses together need `regions` times the output's memory."""
    channels, dtype = padded.shape[1], accumulate_dtype(grad.dtype)
    inner = []
    with without_autocast(padded):
        for own, scale, bias in zip(pattern.unbind(1), filter_scale, filter_bias, strict=True):
            weighted = conv2d_per_sample(
                padded,
                own,
                lambda p: p[:, None, None].expand(-1, channels, 1, -1, -1),
                channels * own[:1].numel(),
                stride,
                (0, 0),
                dilation,
                channels,
            )
            response = F.conv2d(weighted, scale[..., None, None], groups=groups)
            response += F.conv2d(plain, bias[..., None, None], groups=groups)
            inner.append((grad.to(dtype) * response).sum(1))
        return through_softmax(guide, torch.stack(inner, 1))


_gradient_from_factors = forbid_second_derivative("drconv_factors_backward")
