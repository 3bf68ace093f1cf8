"""Taking over the weights of plain convolutions: what a load did, and its log line."""

from collections.abc import Iterator

from torch import nn

from .base import LearnableConv
from .bounds import log_takeovers

__all__ = ["report_takeovers", "takeover_errors"]


def takeover_errors(model: nn.Module) -> dict[str, float]:
    """Name of every layer whose kernel is a plain convolution's, and its relative error.

    A layer belongs here from the load or swap that set it until another checkpoint is loaded.

    Args:
        model: any model.
    """
    return {
        name: error for name, layer in _layers(model) if (error := layer.takeover_error) is not None
    }


def report_takeovers(model: nn.Module) -> None:
    """Log, in one line, how many layers were set from plain kernels since the last such line.

    This package's command lines call it once everything is loaded. Otherwise the first step of an
    optimizer logs the line.

    Args:
        model: any model; without such layers nothing is logged.
    """
    layers = [layer for _, layer in _layers(model) if layer.takeover_error is not None]
    new = [layer for layer in layers if not layer._takeover_reported]
    if new:
        log_takeovers(new)


def _layers(model: nn.Module) -> Iterator[tuple[str, LearnableConv]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, LearnableConv))
