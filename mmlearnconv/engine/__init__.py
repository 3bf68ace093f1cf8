"""Hooks and constructors for mmengine's Runner, and what the command lines share."""

from .launch import (
    argument_parser,
    check_data,
    draw_predictions,
    dump_predictions,
    load_config,
    run,
    set_data_root,
    use_amp,
    use_auto_scale_lr,
)
from .optim import LearnableConvOptimWrapperConstructor

__all__ = [
    "LearnableConvOptimWrapperConstructor",
    "argument_parser",
    "check_data",
    "draw_predictions",
    "dump_predictions",
    "load_config",
    "run",
    "set_data_root",
    "use_amp",
    "use_auto_scale_lr",
]
