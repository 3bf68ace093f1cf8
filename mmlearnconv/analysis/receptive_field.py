"""Effective receptive fields: how much each pixel of an image contributes to a feature."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


class Area(NamedTuple):
    """The smallest square about the centre that holds a share of the contribution."""

    share: float
    side: int  # pixels
    ratio: float  # of the map's area


def contribution(
    model: nn.Module,
    image: Tensor,
    layer: nn.Module | None = None,
    point: tuple[float, float] | None = None,
) -> Tensor:
    """Contribution of each pixel to a layer's features at one location.

    The gradient of ``sum_c relu(F_c(y, x))`` with respect to the image, its positive part summed
    over the image's channels (Luo et al. 2016; Ding et al. 2022, RepLKNet, appendix).

    Args:
        model: a detector or segmentor of mmdet or mmseg (its backbone and neck run), or any module
            that takes a batch of images. In eval mode, if batch statistics are not to count.
        image: ``(C, H, W)``, as the model takes it.
        layer: module of the model whose output is looked at; of several maps, the last. Default:
            the backbone of a detector or segmentor, else the model.
        point: row and column in pixels of the image. Default: its centre.

    Returns:
        Tensor: ``(H, W)``, on the model's device.

    Raises:
        ValueError: the layer does not run, or its output is no ``(N, C, H, W)``.
    """
    run: Callable[[Tensor], Any] = getattr(model, "extract_feat", model)
    if layer is None:
        layer = getattr(model, "backbone", model)
    outputs = []
    handle = layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    device = next((p.device for p in model.parameters()), image.device)
    x = image.detach()[None].to(device).requires_grad_()
    try:
        with torch.enable_grad():
            run(x)
    finally:
        handle.remove()
    if not outputs:
        raise UserValueError(
            f"the layer {type(layer).__name__} does not run in {type(model).__name__}"
        )
    features = outputs[-1]
    while isinstance(features, Sequence) and len(features):
        features = features[-1]
    if not isinstance(features, Tensor) or features.ndim != 4:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserValueError(
            f"the output of the layer {type(layer).__name__} is {shape}; must be (N, C, H, W)"
        )
    height, width = features.shape[2:]
    # RepLKNet's centre is the cell behind the middle.
    row, column = (0.5, 0.5) if point is None else (point[0] / x.shape[2], point[1] / x.shape[3])
    row, column = min(int(row * height), height - 1), min(int(column * width), width - 1)
    feature = F.relu(features[0, :, row, column]).sum()
    (gradient,) = torch.autograd.grad(feature, x)
    return F.relu(gradient[0]).sum(0)


def centred(scores: Tensor, point: tuple[float, float]) -> Tensor:
    """A map moved so that a point is at its centre; what comes in from outside is zero.

    Args:
        scores: ``(H, W)``.
        point: row and column in pixels.

    Returns:
        Tensor: ``(H, W)``.
    """
    moved = torch.zeros_like(scores)
    to, taken = [], []
    for size, place in zip(scores.shape, point, strict=True):
        by = size // 2 - int(place)
        to.append(slice(max(0, by), max(0, size + min(0, by))))
        taken.append(slice(max(0, -by), max(0, size - max(0, by))))
    moved[to[0], to[1]] = scores[taken[0], taken[1]]
    return moved


def areas(scores: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> list[Area | None]:
    """The squares about the centre that hold more than some shares of the contribution.

    As RepLKNet's ``analyze_erf``, so that figures compare: of ``log10(scores + 1)``, squares with
    an odd side of 3 or more.

    Args:
        scores: ``(H, W)``, of :func:`contribution` or a mean of it.
        thresholds: shares, between 0 and 1.

    Returns:
        list: an :class:`Area` for each threshold; ``None`` where no square holds so much.
    """
    scores = (scores.double() + 1).log10()
    height, width = scores.shape
    whole = scores.sum()
    found: list[Area | None] = []
    for threshold in thresholds:
        found.append(None)
        for i in range(1, height // 2):
            rows = slice(max(0, height // 2 - i), height // 2 + i + 1)
            columns = slice(max(0, width // 2 - i), width // 2 + i + 1)
            if scores[rows, columns].sum() > threshold * whole:
                side = 2 * i + 1
                found[-1] = Area(threshold, side, side / height * side / width)
                break
    return found
