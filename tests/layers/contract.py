"""The layers that the contract is tested on: every variant of the catalogue."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from mmlearnconv.catalog import CATALOG, Operator, Variant
from mmlearnconv.layers import LearnableConv
from mmlearnconv.layers.base import CONVOLUTIONS
from mmlearnconv.log import logger

# By type and variant, "DCLS-gauss": type name in conv_cfg, class, options.
CASES: dict[str, tuple[Operator, Variant]] = {
    "-".join(filter(None, (operator.name, label))): (operator, variant)
    for operator in CATALOG
    for label, variant in operator.variants.items()
}
LAYERS = {
    key: (operator.name, operator.layer, {**operator.fixed, **variant.options})
    for key, (operator, variant) in CASES.items()
}
# Also types that are another one in other dimensions, or whose outputs have a scale of their own.
ALL_LAYERS = LAYERS | {
    operator.name: (operator.name, operator.layer, dict(operator.fixed))
    for operator in CATALOG
    if not operator.variants
}


def _parametrize(keys: list[str]) -> pytest.MarkDecorator:
    rows = [ALL_LAYERS[key] for key in keys]
    return pytest.mark.parametrize(("name", "layer", "options"), rows, ids=keys)


def _is_static(key: str) -> bool:
    _, layer, options = ALL_LAYERS[key]
    return layer(2, 2, 3, **options).is_static


LAYER = _parametrize(list(LAYERS))
EVERY_LAYER = _parametrize(list(ALL_LAYERS))
TAKES_OVER = _parametrize([k for k, (_, v) in CASES.items() if v.takeover_error is not None])
REFUSES = _parametrize([k for k, (_, v) in CASES.items() if v.takeover_error is None])
STATIC = _parametrize([key for key in ALL_LAYERS if _is_static(key)])
DYNAMIC = _parametrize([key for key in ALL_LAYERS if not _is_static(key)])


def random_map(
    layer: type[LearnableConv], batch: int = 2, channels: int = 4, size: Sequence[int] = (7, 8, 6)
) -> torch.Tensor:
    """An input of as many dimensions as the layer takes."""
    return torch.randn(batch, channels, *size[: layer.spatial_dims])


def exact_options(layer: type[LearnableConv], kernel_size: Any, options: dict) -> dict[str, Any]:
    """The options with which a layer takes over a kernel exactly, as a swap gives them."""
    return layer(4, 4, kernel_size, **options).exact_takeover_options()


def takeover_error(layer: type[LearnableConv], options: dict) -> float:
    """The largest relative error that the catalogue allows a layer that took over a kernel."""
    return next(
        variant.takeover_error
        for key, (_, variant) in CASES.items()
        if LAYERS[key][1:] == (layer, options)
    )


def in_dimensions(layer: type[LearnableConv], geometry: dict[str, Any]) -> dict[str, Any]:
    """Arguments of nn.Conv2d for as many dimensions as the layer has."""
    dims = layer.spatial_dims
    return {k: (2 * v)[:dims] if isinstance(v, tuple) else v for k, v in geometry.items()}


def build(
    layer: type[LearnableConv], geometry: dict[str, Any], options: dict[str, Any]
) -> LearnableConv | None:
    """A layer with arguments of a plain convolution; ``None`` where it refuses them, and may."""
    if options.get("normalize") == "orthogonalize":
        numel = CONVOLUTIONS[layer.spatial_dims](**geometry).weight[0].numel()
        if geometry["out_channels"] > numel:
            with pytest.raises(ValueError, match="normalize: 'orthogonalize' needs"):
                layer(**geometry, **options)
            return None
    return layer(**geometry, **options)


def geometries(count: int) -> Iterator[dict[str, Any]]:
    """Arguments of nn.Conv2d with 4 input channels, for maps of 23x25."""
    rng = random.Random(0)
    for _ in range(count):
        kernel = rng.choice([(2, 2), (3, 3), (3, 5), (7, 7), (1, 3), (4, 3)])
        groups = rng.choice([1, 2, 4])
        yield dict(
            in_channels=4,
            out_channels=rng.choice([4, 8]),
            kernel_size=kernel,
            stride=rng.choice([1, 2, (2, 1)]),
            padding=rng.choice([0, 1, 3, (1, 0)]),
            dilation=rng.choice([1, 2, (1, 3)]),
            groups=groups,
            bias=rng.random() < 0.5,
            padding_mode=rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"]),
        )
    yield dict(in_channels=4, out_channels=4, kernel_size=4, padding="same", dilation=3)
    yield dict(in_channels=4, out_channels=4, kernel_size=3, padding="valid", groups=4)


def captured(call: Callable[[], Any]) -> list[str]:
    """Messages that the package logs during a call."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        call()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return messages
