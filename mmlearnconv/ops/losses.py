"""Losses on parameters."""

import torch
from torch import Tensor

from .dispatch import accumulate_dtype

__all__ = ["orthogonality", "repulsion"]


def repulsion(positions: Tensor, radius: float = 1.0) -> Tensor:
    r"""How near the elements of DCLS kernels lie: the mean over kernels and pairs i < j of
    :math:`\max(0, r - \lVert p_i - p_j \rVert_2)`.

    The gradient of a pair of elements at the same position is zero.

    Args:
        positions: (axes, out, in / groups, count), at least two elements.
        radius: r, in cells. Default: 1.

    Returns:
        Tensor: a scalar, of at least single precision.
    """
    positions = positions.to(accumulate_dtype(positions.dtype))
    points = positions.flatten(1, -2).permute(1, 2, 0)
    kernels, count, _ = points.shape
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    # Each pair is counted twice, and each element once with itself, at distance zero.
    total = (radius - distances).relu().sum() - kernels * count * radius
    return total / (kernels * count * (count - 1))


def orthogonality(kernel: Tensor) -> Tensor:
    r"""How far filters are from orthonormal: :math:`\lVert K K^T - I \rVert_F^2 / n^2`.

    Args:
        kernel: (n, ...), flattened to K.

    Returns:
        Tensor: a scalar, of at least single precision.
    """
    flat = kernel.flatten(1).to(accumulate_dtype(kernel.dtype))
    product = flat @ flat.mT
    return (product - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
