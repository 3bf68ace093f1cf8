"""Autocast for operations that are not PyTorch's own."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def to_autocast_dtype(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype in which autocast runs a convolution; unchanged without autocast."""
    device = tensors[0].device.type
    if not _has_autocast(device) or not torch.is_autocast_enabled(device):
        return tensors
    if tensors[0].dtype == torch.float64:
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which operations keep the dtypes that they are given, on a tensor's device."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


def _has_autocast(device: str) -> bool:
    return device != "meta"
