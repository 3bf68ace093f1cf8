"""The path of one learned position toward one cell, as in figure 2 of the DKE paper."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserValueError
from ..ops import dke_response


def search_path(
    interpolation: str,
    start: Sequence[float] = (1.0, 0.7),
    steps: int = 200,
    step_size: float = 0.02,
    alpha: float = 2.0,
    radius: float = 2.0,
) -> Tensor:
    """Path of a position under gradient ascent on the coefficient of the cell at the origin.

    ``'gauss'`` follows the layer's own derivative, ``dG/dy = 2 alpha G (s - y)`` (Eq. 15), which
    points at the cell. ``'bilinear'`` follows the one-sided derivative that the paper compares
    with, ``dG/dy = trans(y - s) - 1`` for y >= s and its mirror images (Eq. 17), which does not.

    Args:
        interpolation: ``'gauss'`` or ``'bilinear'``.
        start: the first position, row and column in cells. Default: (1, 0.7).
        steps: number of steps. Default: 200.
        step_size: factor of the derivative. Default: 0.02.
        alpha, radius: sharpness and reach in cells of ``'gauss'``. Default: 2, 2.

    Returns:
        Tensor: the positions, ``(steps + 1, 2)``, float64.

    Raises:
        ValueError: an unknown interpolation.
    """
    if interpolation not in ("gauss", "bilinear"):
        raise UserValueError(
            f"interpolation: {interpolation!r}; allowed are 'gauss' and 'bilinear'"
        )
    position = torch.tensor(start, dtype=torch.double)
    path = [position]
    for _ in range(steps):
        if interpolation == "gauss":
            moving = position.clone().requires_grad_()
            share = dke_response(moving, (9, 9), "gauss", alpha, radius)[4, 4]
            (slope,) = torch.autograd.grad(share, moving)
        else:
            side = torch.where(position >= 0, 1.0, -1.0)
            slope = side * (position.abs().flip(0) - 1)
        position = position + step_size * slope
        path.append(position)
    return torch.stack(path)
