"""A convolution that sums and returns float32 whatever the dtype of the map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import accumulate_dtype, in_full_precision

# Elements of a map that are in float32 at a time: 32 MB.
_TILE = 2**23


def conv2d_in_full_precision(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """``F.conv2d`` in float32 at least, for what says where to read: offsets.

    A map in half precision is cast a few images at a time, and is what the backward pass keeps: in
    float32 it would take twice its memory once more.

    Args:
        input: ``(N, C, H, W)``, of any floating dtype.
        weight: ``(out, C, kH, kW)``.
        bias: ``(out,)`` or ``None``.
        stride, padding, dilation: rows and columns each.

    Returns:
        Tensor: ``(N, out, H', W')``, in float32, or in float64 for float64.
    """
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    if input.dtype == accumulate_dtype(input.dtype) or torch.jit.is_tracing():
        return in_full_precision(F.conv2d, input, weight, bias, *geometry)

    def convolve(*others: Tensor | None) -> Tensor:
        return _InTiles.apply(input, *others, *geometry)

    return in_full_precision(convolve, weight, bias)


def _step(input: Tensor) -> int:
    """How many images are cast at a time."""
    return max(1, _TILE // max(1, input[:1].numel()))


class _InTiles(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Sequence[int]
    ) -> Tensor:
        tiles = [
            F.conv2d(tile.to(weight.dtype), weight, bias, *geometry)
            for tile in input.split(_step(input))
        ]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, weight, bias, *ctx.geometry = inputs
        ctx.save_for_backward(input, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        grad_input = []
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        step = _step(input)
        for own, tile in zip(grad.split(step), input.split(step), strict=True):
            of_tile, of_weight, of_bias = torch.ops.aten.convolution_backward(
                *(own, tile.to(weight.dtype), weight, ctx.bias_sizes, *ctx.geometry),
                *(False, [0, 0], 1, needs),
            )
            if needs[0]:
                grad_input.append(of_tile.to(input.dtype))
            if needs[1]:
                grad_weight = grad_weight + of_weight
            if needs[2]:
                grad_bias = grad_bias + of_bias
        return (
            torch.cat(grad_input) if needs[0] else None,
            grad_weight if needs[1] else None,
            grad_bias if needs[2] else None,
            *(None,) * 3,
        )
