"""Taking over the weights of plain convolutions: what a load did, and its log line."""

from torch import nn

from ..log import logger
from .base import LearnableConv

__all__ = ["report_takeovers", "takeover_errors"]


def takeover_errors(model: nn.Module) -> dict[str, float]:
    """Name of every layer whose kernel is a plain convolution's, and its relative error.

    A layer belongs here from the load or swap that set it until another checkpoint is loaded.

    Args:
        model: any model.
    """
    return {
        name: module.takeover_error
        for name, module in model.named_modules()
        if isinstance(module, LearnableConv) and module.takeover_error is not None
    }


def report_takeovers(model: nn.Module) -> None:
    """Log, in one line, how many layers were set from plain kernels, and how well.

    This package's command lines call it once everything is loaded. A script that loads a
    checkpoint by itself may call it too.

    Args:
        model: any model; without such layers nothing is logged.
    """
    errors = takeover_errors(model)
    if not errors:
        return
    classes = ", ".join(sorted({type(model.get_submodule(name)).__name__ for name in errors}))
    logger.info(
        f"{len(errors)} {classes} layers set from plain convolution weights; "
        f"largest relative error of a kernel {max(errors.values()):.1e}"
    )
