"""What mmengine's Runner uses: hooks, optimizer wrappers and their constructor, safe loading."""

from .checkpoint import (
    CheckpointError,
    enforce_weights_only,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_atomically,
)
from .divergence import DivergenceError, DivergenceHook
from .hooks import AlphaAnnealingHook, ReseedHook, TakeoverReportHook
from .loss_hooks import OrthogonalityLossHook, RepulsiveLossHook
from .optim import BFloat16OptimWrapper, LearnableConvOptimWrapperConstructor
from .picture_hook import LearnableConvPictureHook
from .pretrained import CheckedPretrainedInit, LoadReportHook, check_pretrained, load_whole
from .resume import ResumeCheckHook
from .stats_hook import LearnableConvStatsHook

__all__ = [
    "AlphaAnnealingHook",
    "BFloat16OptimWrapper",
    "CheckedPretrainedInit",
    "CheckpointError",
    "DivergenceError",
    "DivergenceHook",
    "LearnableConvOptimWrapperConstructor",
    "LearnableConvPictureHook",
    "LearnableConvStatsHook",
    "LoadReportHook",
    "OrthogonalityLossHook",
    "RepulsiveLossHook",
    "ReseedHook",
    "ResumeCheckHook",
    "TakeoverReportHook",
    "check_pretrained",
    "enforce_weights_only",
    "find_checkpoint",
    "load_checkpoint",
    "load_whole",
    "newest_checkpoint",
    "save_atomically",
]
