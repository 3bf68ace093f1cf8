"""Models that a command line names: a config, or a function that builds one."""

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..engine import check_pretrained, enforce_weights_only, load_checkpoint, load_whole
from ..errors import UserValueError
from .config import read_config
from .nested import nested_dicts


def build_model(
    name: str,
    checkpoint: str | None = None,
    options: dict[str, Any] | None = None,
    trust: bool = False,
) -> tuple[nn.Module, Config | None]:
    """Build the model of a config, or call a function that returns one; in eval mode.

    Args:
        name: a config, as in :func:`read_config`, or ``module:function`` with the module importable
            from here.
        checkpoint: file with its weights. Default: ``None``, as it is built.
        options: values of the config to override.
        trust: load a checkpoint that holds more than tensors.

    Returns:
        tuple: the model, and the config or ``None``.

    Raises:
        FileNotFoundError: there is no such config.
        CheckpointError: the checkpoint cannot be loaded, or does not set all of the model.
        ValueError: the function does not exist or returns no module.
    """
    enforce_weights_only(trust)
    check_pretrained()
    cfg = None
    with _without_initialisation_logs():
        if ":" in name.replace("::", "") and not os.path.exists(name):
            model = _call(name)
        else:
            cfg = read_config(name, options)
            init_default_scope(cfg.get("default_scope", "mmdet"))
            model = MODELS.build(cfg.model)
            if checkpoint is None and hasattr(model, "init_weights"):
                model.init_weights()
    if checkpoint is not None:
        load_whole(model, load_checkpoint(checkpoint, trust=trust), checkpoint)
    model.eval()  # Which returns nothing in mmdet's detectors with a teacher.
    return model, cfg


def forget_checkpoints(value: Any) -> None:
    """Let a config's model, or a part of it, start from random weights, so that none is fetched."""
    for _, part in nested_dicts(value):
        for key in ("pretrained", "teacher_ckpt"):
            part.pop(key, None)
        init = part.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            part["init_cfg"] = None


@contextmanager
def _without_initialisation_logs() -> Iterator[None]:
    """A context in which mmengine does not print how it initialised each parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _call(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise UserValueError(f"{name}: must be module:function; {error}") from error
    if not isinstance(model, nn.Module):
        raise UserValueError(f"{name}: returns {type(model).__name__}; must return an nn.Module")
    return model
