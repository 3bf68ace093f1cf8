"""Learnable convolutions of a whole model replaced by the plain ones that they equal."""

from collections.abc import Mapping

from torch import nn

from ..errors import UserValueError
from ..layers import DCLSConv, LearnableConv

TAPS = ("exact", "rounded")


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules of a model, under every name that they have in it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replacements:
                parent._modules[name] = replacements[child]


def fold_convs(model: nn.Module, taps: str | None = None) -> nn.Module:
    """Replace every learnable convolution of a model, in place, by the plain one that it equals.

    Names of modules stay. A folded kernel has the size of its window: DCLS's 7x7 becomes a plain
    17x17 with wider padding.

    Args:
        model: any model.
        taps: ``'exact'`` folds depthwise DCLS layers into ``DepthwiseTapsConv2d`` instead, which
            multiplies only the cells that elements touch, not the whole window, and needs this
            package; ``'rounded'`` also moves each element to its nearest cell, which leaves a
            quarter of the taps but changes the outputs. Default: ``None``.

    Returns:
        nn.Module: ``model``, or its plain convolution if ``model`` itself is a learnable one.

    Raises:
        ValueError: ``taps`` is unknown, or a layer cannot be folded, for example because its kernel
            depends on the input; the model is then unchanged.
    """
    if taps not in (None, *TAPS):
        raise UserValueError(f"taps: {taps!r}; allowed are {(None, *TAPS)}")
    layers = {m: name for name, m in model.named_modules() if isinstance(m, LearnableConv)}
    folded, refused = {}, []
    for layer, name in layers.items():
        try:
            sparse = taps and isinstance(layer, DCLSConv) and layer.has_taps
            folded[layer] = layer.to_taps(taps == "rounded") if sparse else layer.to_conv()
        except ValueError as error:
            refused.append(f"{name or 'the model'}: {error}")
    if refused:
        raise UserValueError(
            f"{len(refused)} of {len(layers)} learnable convolutions cannot be folded:\n"
            + "\n".join(refused)
        )
    replace_modules(model, folded)
    return folded.get(model, model)
