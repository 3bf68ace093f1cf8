"""Epochs and iterations."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from ..errors import UserValueError


def refuse_epochs(hook: Hook, runner: Any, name: str) -> None:
    """Raise an error if a hook counts epochs and the training loop counts iterations.

    Raises:
        ValueError: the loop counts iterations.
    """
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        raise UserValueError(
            f"{type(hook).__name__}: {name}={getattr(hook, name)} counts epochs, and this loop has "
            "none; count iterations, with by_epoch=False"
        )
