"""Kernel construction for dilated convolutions with learnable spacings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .extension import has_kernels, operator
from .nan import nan_if_any
from .reference import GAUSS_WIDTH, NORM_EPS, TRIANGLE_WIDTH, within

INTERPOLATIONS = ("bilinear", "gauss", "triangle")


def dcls_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """Dense kernel of a DCLS convolution, without a tensor of window times count.

    The definition is :func:`mmlearnconv.ops.reference.dcls_kernel`. Bilinear elements touch
    ``2 ** D`` cells each, which are scattered into the window; the other two interpolations are
    separable, so the kernel is a product of a ``(rows, count)`` and a ``(count, columns)`` matrix.
    A position that is not a number makes all of its kernel's cells NaN.

    Args:
        weight: ``(out, in / groups, count)``.
        positions: ``(D, out, in / groups, count)``, in cells relative to the window's centre cell.
        size: the window, ``D`` numbers of cells.
        interpolation: ``'bilinear'``, ``'gauss'`` or ``'triangle'``.
        width: as ``positions``; ``None`` is zero. Not used by ``'bilinear'``.

    Returns:
        Tensor: ``(out, in / groups, *size)``.

    Raises:
        ValueError: a shape that does not fit, or an unknown interpolation.
    """
    expected = (len(size), *weight.shape)
    if weight.ndim != 3 or positions.shape != expected:
        raise ValueError(
            f"positions: shape {tuple(positions.shape)} does not fit weight "
            f"{tuple(weight.shape)} and size {tuple(size)}; expected {expected}"
        )
    if width is not None and width.shape != expected:
        raise ValueError(f"width: shape {tuple(width.shape)}; expected {expected}")
    if interpolation == "bilinear":
        if has_kernels(weight):
            return operator("dcls_kernel")(weight, positions, size)
        return _scattered_kernel(weight, positions, size)
    if interpolation in INTERPOLATIONS:
        return _separable_kernel(weight, positions, size, interpolation, width)
    raise ValueError(f"interpolation: {interpolation!r}; allowed are {INTERPOLATIONS}")


def _scattered_kernel(weight: Tensor, positions: Tensor, size: Sequence[int]) -> Tensor:
    values, cells = dcls_taps(weight, positions, size)
    index = cells[..., 0]
    for axis in range(1, len(size)):
        index = index * size[axis] + cells[..., axis]
    kernel = values.new_zeros(*weight.shape[:2], torch.Size(size).numel())
    kernel = kernel.scatter_add(2, index, values)
    kernel = kernel + nan_if_any(weight, 2) + nan_if_any(positions, 0, 3)[0]
    return kernel.unflatten(2, tuple(size))


def dcls_taps(weight: Tensor, positions: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The ``2 ** D`` cells that each bilinear element touches, and how much.

    Args:
        weight, positions, size: as :func:`dcls_kernel`.

    Returns:
        tuple[Tensor, Tensor]: values ``(out, in / groups, 2 ** D * count)``, and cells ``(..., D)``
        from the window's first; what falls outside the window is a zero on its edge.
    """
    lower, parts = [], []
    for axis, cells in enumerate(size):
        q = within(positions[axis] + cells // 2, -2, cells + 1)
        f = q.detach().floor()
        r = q - f
        lower.append(f.nan_to_num().long())
        parts.append((1 - r, r))
    values, cells = [], []
    for number in range(2 ** len(size)):
        corner = [number >> axis & 1 for axis in reversed(range(len(size)))]
        value, inside, kept = weight, [], []
        for axis, upper in enumerate(corner):
            at = lower[axis] + upper
            kept.append(at.clamp(0, size[axis] - 1))
            inside.append(kept[-1] == at)
            value = value * parts[axis][upper]
        # What is not a number stays so: it is no zero.
        kept_values = torch.stack(inside).all(0) | value.detach().isnan()
        values.append(torch.where(kept_values, value, 0))
        cells.append(torch.stack(kept, -1))
    return torch.cat(values, 2), torch.cat(cells, 2)


def _separable_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str,
    width: Tensor | None,
) -> Tensor:
    profiles = separable_profiles(positions, size, interpolation, width)
    norm = profiles[0].sum(-1)
    for profile in profiles[1:]:
        norm = norm * profile.sum(-1)
    rows = (weight / (norm + NORM_EPS))[..., None] * profiles[0]
    for profile in profiles[1:-1]:
        rows = (rows[..., None] * profile[..., None, :]).flatten(3)
    if len(profiles) == 1:
        return rows.sum(2)
    return (rows.transpose(2, 3) @ profiles[-1]).unflatten(2, tuple(size[:-1]))


def separable_profiles(
    positions: Tensor, size: Sequence[int], interpolation: str, width: Tensor | None
) -> list[Tensor]:
    """Unnormalised response of the elements along each axis, ``(out, in / groups, count, n)``."""
    profiles = []
    for axis, cells in enumerate(size):
        s = torch.arange(cells, dtype=positions.dtype, device=positions.device)
        distance = s - (positions[axis] + cells // 2)[..., None]
        w = 0 if width is None else width[axis].abs()[..., None]
        if interpolation == "triangle":
            profiles.append((TRIANGLE_WIDTH + w - distance.abs()).relu())
        else:
            profiles.append((-0.5 * (distance / (GAUSS_WIDTH + w)) ** 2).exp())
    return profiles
