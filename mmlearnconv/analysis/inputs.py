"""What images a network takes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import LearnableConv

CHANNELS = 3


class _ReachedError(Exception):
    """The first layer was about to run."""


def input_channels(model: nn.Module, size: Sequence[int] = (64, 64)) -> int:
    """How many channels the images of a network have, by its first layer.

    The network runs on three channels, or as many as its first registered convolution takes, up to
    the first layer that takes something made of the image; a step before it that trades pixels for
    channels, as YOLOX's first one does, is taken into account.

    Args:
        model: a detector or segmentor of mmdet or mmseg, or any module that takes a batch of
            images.
        size: height and width to run it at. Default: ``(64, 64)``.

    Returns:
        int: the channels; 3 where no layer tells.
    """
    layers = [module for module in model.modules() if _is_layer(module)]
    registered = [m.in_channels for m in layers if hasattr(m, "in_channels")][:1]
    for channels in (CHANNELS, *registered):
        if reached := _first_layer(model, layers, (channels, *size)):
            wants, given = reached
            share, rest = divmod(channels * wants, given)
            return channels + wants - given if rest else share
    return CHANNELS


def _first_layer(
    model: nn.Module, layers: Sequence[nn.Module], shape: Sequence[int]
) -> tuple[int, int] | None:
    """The channels that the first layer takes, and those that it gets; ``None`` if none runs."""
    reached: list[tuple[int, int]] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        # What needs a gradient is made of the image.
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            wants = getattr(module, "in_channels", None) or module.in_features
            given = args[0].shape[1 if hasattr(module, "in_channels") else -1]
            reached.append((wants, given))
            raise _ReachedError

    hooks = [layer.register_forward_pre_hook(stop) for layer in layers]
    run: Callable[[Tensor], Any] = getattr(model, "extract_feat", model)
    like = next(model.parameters(), torch.empty(0))
    try:
        with torch.enable_grad():
            run(like.new_zeros(1, *shape).requires_grad_())
    except (_ReachedError, AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        pass  # What cannot run tells nothing.
    finally:
        for hook in hooks:
            hook.remove()
    return reached[0] if reached else None


def _is_layer(module: nn.Module) -> bool:
    channels = getattr(module, "in_channels", getattr(module, "in_features", None))
    whole = isinstance(module, LearnableConv) or not list(module.children())
    return isinstance(channels, int) and whole
