"""Numbers that are none, which must not be lost where what they scale is not read."""

import torch
from torch import Tensor


def nan_if_any(tensor: Tensor, *axes: int) -> Tensor:
    """NaN where one of the numbers along the axes is, else zero; to be added to what they make."""
    found = tensor.detach().isnan().any(axes, keepdim=True)
    return torch.zeros(found.shape, dtype=tensor.dtype, device=tensor.device).masked_fill(
        found, torch.nan
    )
