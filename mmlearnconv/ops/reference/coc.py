"""The definitions of CoC's associated kernels, and of orthonormal and standardised kernels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["associate_kernels", "orthogonalize", "standardize"]


def associate_kernels(
    weight: Tensor,
    super_weight: Tensor,
    association: int,
    dilation: Sequence[int],
    skip: bool,
    norms: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Kernels convolved with their neighbours on a sheet (Convolution of Convolution).

    Each group of ``association ** 2`` kernels is tiled into a sheet; the last sheet is filled up
    with zero kernels. Each super layer convolves a sheet with the sheet's own super kernel. Finally
    the sheets are cut into kernels again.

    Args:
        weight: ``(out, in / groups, kH, kW)``.
        super_weight: ``(layers, sheets, rows, columns)``, odd sides.
        association: kernels on a side of a sheet.
        dilation: of the super kernels, rows and columns.
        skip: whether a super layer adds its input.
        norms: gain and bias of a layer norm after each super layer, ``(layers, sheets, association
            * kH, association * kW)``; super kernels are then standardised first.

    Returns:
        Tensor: as ``weight``.
    """
    a, sheets = association, super_weight.shape[1]
    rows, columns = weight.shape[2:]
    padding = [d * (n // 2) for d, n in zip(dilation, super_weight.shape[2:], strict=True)]
    kernels = [*weight, *weight.new_zeros(sheets * a * a - len(weight), *weight.shape[1:])]
    pictures = []
    for sheet in range(sheets):
        own = kernels[sheet * a * a : (sheet + 1) * a * a]
        pictures.append(torch.cat([torch.cat(own[r * a : (r + 1) * a], 2) for r in range(a)], 1))
    for layer, supers in enumerate(super_weight):
        moved = []
        for picture, kernel in zip(pictures, supers, strict=True):
            if norms is not None:
                kernel = (kernel - kernel.mean()) / (kernel.std() + 1e-5)
            one = F.conv2d(picture[:, None], kernel[None, None], None, 1, padding, tuple(dilation))
            moved.append(one[:, 0])
        if norms is not None:
            # Over all sheets of an input channel.
            stacked = torch.stack(moved, 1)
            mean = stacked.mean((1, 2, 3), keepdim=True)
            deviation = (stacked.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            stacked = (stacked - mean) / deviation * norms[0][layer] + norms[1][layer]
            moved = list(stacked.unbind(1))
        pictures = [p + m if skip else m for p, m in zip(pictures, moved, strict=True)]
    cut = [
        picture[:, r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
        for picture in pictures
        for r in range(a)
        for c in range(a)
    ]
    return torch.stack(cut[: len(weight)])


def orthogonalize(weight: Tensor) -> Tensor:
    """Nearest kernel whose flattened filters are orthonormal, ``(V V^T)^(-1/2) V``.

    ``P Q^T`` of the singular value decomposition ``V = P S Q^T``.
    """
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return (left @ right).view_as(weight)


def standardize(weight: Tensor, gain: Tensor, mean: Tensor) -> Tensor:
    """``gain * (W - E[W]) / sqrt(Var[W] + 1e-5) + mean`` per filter; both are ``(out,)``."""
    filters = []
    for own, scale, shift in zip(weight, gain, mean, strict=True):
        centred = own - own.mean()
        filters.append(scale * centred / (centred.square().mean() + 1e-5).sqrt() + shift)
    return torch.stack(filters)
