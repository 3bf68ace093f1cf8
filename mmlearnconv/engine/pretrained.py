"""Pretrained initialisation that reports every tensor it did not set."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn

from .checkpoint import CheckpointError
from .layouts import translate
from .model import unwrap_model

_NAMED = 3
_COUNTER = "num_batches_tracked"


class CheckedPretrainedInit(PretrainedInit):
    """mmengine's initialiser ``'Pretrained'`` for files of several libraries, with a report.

    It renames what timm, torchvision, Hugging Face and ConvNeXt's and DCLS's authors call
    differently, finds the prefix of the keys where ``prefix`` is not given, or not in the file, and
    logs in one sentence what the file set and what it did not.

    Raises:
        CheckpointError: no tensor of the file is the module's, or fits it, or the module refuses
            one, as positions that differ between layers that share them.
    """

    def __call__(self, module: nn.Module) -> None:
        checkpoint = _load_checkpoint(self.checkpoint, map_location=self.map_location)
        state_dict = checkpoint.get("state_dict", checkpoint)
        wanted = module.state_dict()
        match = translate(state_dict, wanted, self.prefix)
        if match.count < 1 and self.prefix is not None:
            match = translate(state_dict, wanted)
        kind = type(module).__name__
        if match.count < 1:
            raise CheckpointError(
                f"checkpoint {self.checkpoint}: none of its {len(state_dict)} tensors, like "
                f"{_some(state_dict)}, is one of {kind}'s, like {_some(wanted)}; name a file of "
                "this architecture in init_cfg"
            )
        loading = load(module, match.state_dict, self.checkpoint)
        if all(key in loading.lacking for key in wanted if not key.endswith(_COUNTER)):
            raise CheckpointError(
                f"checkpoint {self.checkpoint} does not fit {kind}: "
                f"{'; '.join(loading.describe())}; name a file of this architecture in init_cfg"
            )
        count = len(wanted) - len(loading.lacking)
        said = f"{kind}: {count} of {len(wanted)} tensors from "
        said += f"{self.checkpoint}, {match.layout}'s names"
        said += f" below {match.prefix!r}" if match.prefix else ""
        said += "".join(f"; {part}" for part in loading.describe())
        level = logging.WARNING if loading.lacking else logging.INFO
        print_log(said, logger="current", level=level)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


class LoadReportHook(Hook):
    """Logs how much of each part of the model a checkpoint of ``load_from`` or ``resume`` set.

    Raises:
        CheckpointError: a training is to resume from weights alone; the file sets nothing of the
            backbone, or of the model if that has none; or a layer refuses its part, of which
            mmengine only warns.
    """

    _report: Callable[[], None] | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        hook = runner.cfg.get("default_hooks", {}).get("checkpoint") or {}
        # A run that does not save the optimizer goes on without its state.
        needed = {"meta"} if hook.get("save_optimizer") is False else {"meta", "optimizer"}
        if runner.cfg.get("resume") and not needed <= checkpoint.keys():
            raise CheckpointError(
                f"--resume: checkpoint {runner.cfg.load_from} holds weights without the state of a "
                "training, as files do that were saved with save_optimizer=False; to start from "
                "them, name the file in load_from"
            )
        model = unwrap_model(runner.model)
        saved = _some(checkpoint.get("state_dict", checkpoint))
        # The weights are not loaded yet; only what the modules then miss tells what was set, since
        # they rename keys and take plain kernels over.
        loading = _Loading(model)

        def report() -> None:
            loading.close()
            _report_parts(model, loading, saved)

        self._report = report

    def before_train(self, runner: Any) -> None:
        if self._report is not None:
            self._report()
            self._report = None

    before_val = before_test = before_train


def check_pretrained() -> None:
    """Have mmengine initialise by :class:`CheckedPretrainedInit`, for the rest of the process."""
    WEIGHT_INITIALIZERS.register_module("Pretrained", force=True, module=CheckedPretrainedInit)


class _Loading:
    """What a module misses while a state dict is loaded, by PyTorch or by mmengine."""

    def __init__(self, module: nn.Module) -> None:
        self.missing: list[str] = []
        """Keys that the state dict lacks, without counters of batches."""
        self.unused: list[str] = []
        """Its keys that the module lacks."""
        self.resized: list[str] = []
        """Keys whose shapes differ."""
        self.refused: list[str] = []
        """What layers say of keys that they refuse."""
        self._errors: list[str] = []
        self._hooks = (
            module.register_load_state_dict_pre_hook(self._begin),
            module.register_load_state_dict_post_hook(self._end),
        )

    def _begin(self, *arguments: Any) -> None:
        self._errors = arguments[-1]

    def _end(self, module: nn.Module, keys: Any) -> None:
        self.missing = [key for key in keys.missing_keys if not key.endswith(_COUNTER)]
        self.unused = list(keys.unexpected_keys)
        for error in self._errors:
            mismatch = re.match(r"size mismatch for ([^:]+):", error.strip())
            self.resized += [mismatch[1]] if mismatch else []
            self.refused += [] if mismatch else [error.strip()]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def lacking(self) -> list[str]:
        """The module's keys that were not set."""
        return self.missing + self.resized

    def describe(self) -> list[str]:
        """What does not match, kind by kind."""
        kinds = {
            "not in the file": self.missing,
            "of another shape": self.resized,
            "not used": self.unused,
        }
        return [f"{kind}: {_some(keys)}" for kind, keys in kinds.items() if keys]


def load_whole(module: nn.Module, checkpoint: dict[str, Any], path: str | os.PathLike) -> None:
    """Load a checkpoint that has to set every tensor of a module, all counters of batches aside.

    Args:
        module: what to load it into.
        checkpoint: what the file holds: weights, or a dictionary with them under ``state_dict``.
        path: the file, for messages.

    Raises:
        CheckpointError: it does not set all of them, or a layer refuses its part.
    """
    loading = load(module, checkpoint.get("state_dict", checkpoint), path)
    if loading.lacking:
        raise CheckpointError(
            f"checkpoint {path} does not fit the config's {type(module).__name__}: it leaves "
            f"{len(loading.lacking)} of {len(module.state_dict())} tensors as they were drawn; "
            f"{'; '.join(loading.describe())}. Name the config that it was trained with"
        )
    if loading.unused:
        print_log(f"checkpoint {path}: {loading.describe()[-1]}", "current", logging.WARNING)


def load(module: nn.Module, state_dict: dict[str, Any], path: str | os.PathLike) -> _Loading:
    """Load what fits.

    Raises:
        CheckpointError: a layer refuses its part.
    """
    loading = _Loading(module)
    try:
        module.load_state_dict(state_dict, strict=False)
    except RuntimeError:
        # Raised after all that fits was loaded, if it is for shapes or refused keys.
        if not loading.resized and not loading.refused:
            raise
    finally:
        loading.close()
    if loading.refused:
        raise CheckpointError(f"checkpoint {path}: {loading.refused[0]}")
    return loading


def _report_parts(model: nn.Module, loading: _Loading, saved: str) -> None:
    """Log how many tensors of each part were set; refuse a backbone without any."""
    if loading.refused:
        raise CheckpointError(f"the checkpoint does not fit the model: {loading.refused[0]}")
    found = {}
    for name, part in model.named_children():
        # Layers set these themselves where a file lacks them.
        if total := sum(not key.endswith(_COUNTER) for key in part.state_dict()):
            found[name] = total - sum(key.startswith(f"{name}.") for key in loading.lacking), total
    said = ", ".join(f"{name} {n} of {total}" for name, (n, total) in found.items())
    said += "".join(f"; {part}" for part in loading.describe())
    level = logging.WARNING if loading.lacking else logging.INFO
    print_log(f"tensors set by the checkpoint: {said}", logger="current", level=level)
    if found.get("backbone", max(found.values()))[0] < 1:
        raise CheckpointError(
            f"the checkpoint holds no tensor of the model's backbone: its keys are like {saved}. "
            "Weights of a backbone alone, also of another library, go into "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )


def _some(keys: Sequence[str] | dict[str, Any]) -> str:
    """The first of them, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
