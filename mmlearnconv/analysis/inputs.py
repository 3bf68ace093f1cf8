"""What images a network takes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import LearnableConv

CHANNELS = 3


class _ReachedError(Exception):
    """The first layer was about to run."""


@torch.no_grad()
def input_channels(model: nn.Module, size: Sequence[int] = (64, 64)) -> int:
    """How many channels the images of a network have, by its first layer.

    The network runs on three channels up to its first convolution or matrix product; a step before
    it that trades pixels for channels, as YOLOX's first one does, is taken into account.

    Args:
        model: a detector or segmentor of mmdet or mmseg, or any module that takes a batch of
            images.
        size: height and width to run it at. Default: ``(64, 64)``.

    Returns:
        int: the channels; 3 where no layer tells.
    """
    reached: list[tuple[int, int]] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            wants = getattr(module, "in_channels", None) or module.in_features
            given = args[0].shape[1 if hasattr(module, "in_channels") else -1]
            reached.append((wants, given))
            raise _ReachedError

    hooks = [m.register_forward_pre_hook(stop) for m in model.modules() if _is_layer(m)]
    run: Callable[[Tensor], Any] = getattr(model, "extract_feat", model)
    like = next(model.parameters(), torch.empty(0))
    try:
        run(like.new_zeros(1, CHANNELS, *size))
    except (_ReachedError, AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        pass  # What cannot run tells nothing.
    finally:
        for hook in hooks:
            hook.remove()
    if not reached:
        return CHANNELS
    wants, given = reached[0]
    share, rest = divmod(CHANNELS * wants, given)
    return CHANNELS + wants - given if rest else share


def _is_layer(module: nn.Module) -> bool:
    channels = getattr(module, "in_channels", getattr(module, "in_features", None))
    whole = isinstance(module, LearnableConv) or not list(module.children())
    return isinstance(channels, int) and whole
