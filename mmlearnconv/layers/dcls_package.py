"""State dicts of the DCLS authors' package ``dcls``."""

from collections.abc import Sequence
from typing import Any

import torch


def from_package(
    state_dict: dict[str, Any],
    prefix: str,
    window: Sequence[int],
    interpolation: str,
    dense_axes: bool,
) -> dict[str, Any]:
    """Convert a layer's state of the package ``dcls`` to our names and order of axes.

    Its positions ``P`` and widths ``SIG`` list the window's axes in order in version v0 (in three
    dimensions with the last two exchanged) and in reverse in later versions. The state does not
    name its version: ``'bilinear'`` is read as v0. Offsets are relative to the centre of the stored
    axis, not of the true one.

    Args:
        state_dict: with the layer's keys below ``prefix``.
        prefix: of the layer.
        window: of the layer, along its learned axes.
        interpolation: of the layer.
        dense_axes: whether the layer has axes along which nothing is learned; they are axes of
            their own there.

    Returns:
        dict: a new one.
    """
    order = list(range(len(window)))
    if not dense_axes:
        exchanged = [0, 2, 1] if len(order) == 3 else order
        order = exchanged if interpolation == "bilinear" else order[::-1]
    state_dict = dict(state_dict)
    middles = torch.tensor([s // 2 for s in window])
    shift = (middles[order] - middles).view(-1, 1, 1, 1)
    for theirs, ours in (("P", "positions"), ("SIG", "width")):
        if prefix + theirs in state_dict:
            value = state_dict.pop(prefix + theirs).flatten(2, -2)[order]
            state_dict[prefix + ours] = value + shift.to(value) if theirs == "P" else value
    if prefix + "weight" in state_dict:
        state_dict[prefix + "weight"] = state_dict[prefix + "weight"].flatten(1, -2)
    return state_dict
