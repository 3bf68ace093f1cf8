"""The definition of orthonormal kernels."""

import torch
from torch import Tensor

__all__ = ["orthogonalize"]


def orthogonalize(weight: Tensor) -> Tensor:
    """Nearest kernel whose flattened filters are orthonormal, ``(V V^T)^(-1/2) V``: ``P Q^T`` of
    the singular value decomposition ``V = P S Q^T``.
    """
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return (left @ right).view_as(weight)
