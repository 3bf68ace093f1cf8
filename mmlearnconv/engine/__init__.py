"""Hooks and constructors for mmengine's Runner, and what the command lines share."""

from .checkpoint import CheckpointError, guard_checkpoints, load_checkpoint, written_whole
from .hooks import (
    AlphaAnnealingHook,
    LearnableConvStatsHook,
    OrthogonalityLossHook,
    RepulsiveLossHook,
    ReseedHook,
)
from .launch import (
    add_trust_option,
    argument_parser,
    check_data,
    draw_predictions,
    dump_predictions,
    load_config,
    read_config,
    run,
    set_data_root,
    use_amp,
    use_auto_scale_lr,
)
from .optim import BFloat16OptimWrapper, LearnableConvOptimWrapperConstructor

__all__ = [
    "AlphaAnnealingHook",
    "BFloat16OptimWrapper",
    "CheckpointError",
    "LearnableConvOptimWrapperConstructor",
    "LearnableConvStatsHook",
    "OrthogonalityLossHook",
    "RepulsiveLossHook",
    "ReseedHook",
    "add_trust_option",
    "argument_parser",
    "check_data",
    "draw_predictions",
    "dump_predictions",
    "guard_checkpoints",
    "load_checkpoint",
    "load_config",
    "read_config",
    "run",
    "set_data_root",
    "use_amp",
    "use_auto_scale_lr",
    "written_whole",
]
