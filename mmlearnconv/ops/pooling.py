"""Average pooling whose gradient has one order on every device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import wants_gradient
from .dispatch import accumulate_dtype, match_memory_format, without_autocast


def adaptive_avg_pool2d(input: Tensor, size: Sequence[int]) -> Tensor:
    """``F.adaptive_avg_pool2d``, with a deterministic gradient, which PyTorch's has not on CUDA.

    Args:
        input: ``(N, C, H, W)``.
        size: rows and columns of the output.

    Returns:
        Tensor: ``(N, C, *size)``.
    """
    size = tuple(size)
    if not wants_gradient(input):
        return F.adaptive_avg_pool2d(input, size)
    return _AdaptiveAvgPool.apply(input, size)


class _AdaptiveAvgPool(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, size: tuple[int, int]) -> Tensor:
        return F.adaptive_avg_pool2d(input, size)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (input,) = ctx.saved_tensors
        with without_autocast(grad):
            rows, columns = (
                averages(whole, parts, grad)
                for whole, parts in zip(input.shape[2:], grad.shape[2:], strict=True)
            )
            grad_input = rows.T @ grad.to(rows.dtype) @ columns
        return match_memory_format(grad_input.to(input.dtype), input), None


def averages(whole: int, parts: int, like: Tensor) -> Tensor:
    """The matrix ``(parts, whole)`` that averages ``whole`` values over ``parts`` windows.

    Window i covers ``floor(i whole / parts)`` to ``ceil((i + 1) whole / parts) - 1``, as PyTorch's.
    """
    part = torch.arange(parts, device=like.device)[:, None]
    index = torch.arange(whole, device=like.device)
    begin, end = part * whole // parts, ((part + 1) * whole + parts - 1) // parts
    inside = (index >= begin) & (index < end)
    return inside.to(accumulate_dtype(like.dtype)) / (end - begin)
