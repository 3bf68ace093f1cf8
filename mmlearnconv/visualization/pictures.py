"""All pictures of a model's layers, by operator."""

from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any

import numpy as np
from torch import nn

from ..analysis.sampling import Call
from ..layers import (
    CoCConv2d,
    DCLSConv2d,
    DeformableKernelConv2d,
    DKEConv2d,
    DRConv2d,
    LearnableConv,
)
from . import coc, dcls, dk, dke, drconv
from .picture import Picture

#: Draws the layers of a class, ``{name: layer}``; those that need an image take calls and image.
DRAWINGS: dict[type[LearnableConv], Callable[..., list[Picture]]] = {
    DCLSConv2d: dcls.draw,
    DeformableKernelConv2d: dk.draw,
    DKEConv2d: dke.draw,
    CoCConv2d: coc.draw,
    DRConv2d: drconv.draw,
}


#: Draws where positions are, without an image: a frame of an animation over checkpoints.
POSITIONS: dict[type[LearnableConv], Callable[..., Picture]] = {
    DCLSConv2d: dcls.positions,
    DKEConv2d: dke.taps,
}


def draw_positions(model: nn.Module) -> list[Picture]:
    """Where DCLS's elements and DKE's taps are, one picture each; empty if there are none."""
    found = []
    for kind, draw in POSITIONS.items():
        if layers := _layers_of(model, kind):
            found.append(draw(layers))
    return found


def draw_layers(
    model: nn.Module,
    calls: dict[str, Call] | None = None,
    image: np.ndarray | None = None,
) -> list[Picture]:
    """What the layers of a model learned, drawn operator by operator.

    Args:
        model: any module.
        calls: what each layer got from the image, ``SamplingPoints(model, image).calls``. Default:
            none; what depends on an image (DK, DRConv) is then not drawn.
        image: the image, ``(H, W, 3)`` RGB. Default: none.

    Returns:
        list: the pictures; empty if the model has no learnable convolution that has any.
    """
    found: list[Picture] = []
    for kind, draw in DRAWINGS.items():
        layers, further = _layers_of(model, kind), ()
        if len(signature(draw).parameters) > 1:
            if calls is None or image is None:
                continue
            layers = {name: layer for name, layer in layers.items() if name in calls}
            further = calls, image
        if layers:
            found += draw(layers, *further)
    return found


def _layers_of(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if type(layer) is kind}


def draw_objects(
    model: nn.Module, looks: Iterable[tuple[dict[str, Call], Sequence[Any]]]
) -> list[Picture]:
    """DK's offsets at annotated objects, by size and class; none in a model without a local DK.

    Args:
        model: the model.
        looks: for each image what each layer got from it, and its objects, each with ``centre``,
            ``share`` and ``category``.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: there are fewer than four objects.
    """
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, DeformableKernelConv2d) and layer.mode == "local"
    ]
    if not layers:
        return []
    name, layer = layers[-1]
    offsets, boxes = [], []
    for calls, found in looks:
        offsets.append(dk.offsets_at(layer, calls[name], [box.centre for box in found]))
        boxes += found
    shares, categories = [box.share for box in boxes], [box.category for box in boxes]
    return [dk.draw_objects(name, np.concatenate(offsets), shares, categories)]
