"""Memory formats: outputs have the input's."""

from collections.abc import Sequence

import torch
from torch import Tensor


def is_channels_last(input: Tensor) -> bool:
    """Whether a map is channels_last and nothing else."""
    return not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)


def empty_like(input: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An empty map of another shape, laid out as the input is."""
    format_ = torch.channels_last if is_channels_last(input) else torch.contiguous_format
    dtype = dtype or input.dtype
    return torch.empty(shape, dtype=dtype, device=input.device, memory_format=format_)


def lay_out(output: Tensor, input: Tensor) -> Tensor:
    """The output, laid out as the input is."""
    format_ = torch.channels_last if is_channels_last(input) else torch.contiguous_format
    return output.contiguous(memory_format=format_)
