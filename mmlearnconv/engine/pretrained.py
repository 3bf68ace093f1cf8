"""``init_cfg=dict(type='Pretrained')`` that leaves nothing random in silence."""

import logging
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
        CheckpointError: no tensor of the file is the module's, or the module refuses one, as
            positions that differ between layers that share them.
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
        missing, unused, resized = load(module, match.state_dict, self.checkpoint)
        said = f"{kind}: {len(wanted) - len(missing) - len(resized)} of {len(wanted)} tensors from "
        said += f"{self.checkpoint}, {match.layout}'s names"
        said += f" below {match.prefix!r}" if match.prefix else ""
        for what, keys in (
            ("not in the file", missing),
            ("of another shape", resized),
            ("not used", unused),
        ):
            if keys:
                said += f"; {what}: {_some(keys)}"
        level = logging.WARNING if missing or resized else logging.INFO
        print_log(said, logger="current", level=level)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


class LoadReportHook(Hook):
    """Logs how much of each part of the model a checkpoint of ``load_from`` or ``resume`` set.

    Raises:
        CheckpointError: it set nothing of the backbone, or of the model if that has none.
    """

    _report: Callable[[], None] | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        # Called before the weights are loaded; only what the modules then miss tells what was set,
        # since they rename keys and take plain kernels over.
        model = unwrap_model(runner.model)
        missing: list[str] = []
        saved = _some(checkpoint.get("state_dict", checkpoint))
        handle = model.register_load_state_dict_post_hook(
            lambda _, keys: missing.extend(keys.missing_keys)
        )

        def report() -> None:
            handle.remove()
            _report_parts(model, missing, saved)

        self._report = report

    def before_train(self, runner: Any) -> None:
        if self._report is not None:
            self._report()
            self._report = None

    before_val = before_test = before_train


def check_pretrained() -> None:
    """Have mmengine initialise by :class:`CheckedPretrainedInit`, for the rest of the process."""
    WEIGHT_INITIALIZERS.register_module("Pretrained", force=True, module=CheckedPretrainedInit)


def load(
    module: nn.Module, state_dict: dict[str, Any], path: str
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits.

    Returns:
        tuple: keys that the state dict lacks, without counters of batches; its keys that the module
        lacks; and those whose shapes differ.

    Raises:
        CheckpointError: a layer refuses its part.
    """
    keys = []
    hook = module.register_load_state_dict_post_hook(lambda _, found: keys.extend(found))
    problems: list[str] = []
    try:
        module.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        # Raised after all that fits was loaded: a line per problem.
        problems = [line.strip() for line in str(error).splitlines()[1:]]
    finally:
        hook.remove()
    resized = [m[1] for line in problems if (m := re.match(r"size mismatch for ([^:]+):", line))]
    if len(resized) < len(problems):
        refused = next(line for line in problems if not line.startswith("size mismatch for "))
        raise CheckpointError(f"checkpoint {path}: {refused}")
    missing, unused = (list(found) for found in keys)
    missing = [key for key in missing if not key.endswith(_COUNTER)]
    return missing, unused, resized


def _report_parts(model: nn.Module, missing: list[str], saved: str) -> None:
    """Log how many tensors of each part are not missing; refuse a backbone without any."""
    found = {}
    lacking = [key for key in missing if not key.endswith(_COUNTER)]
    for name, part in model.named_children():
        # Layers set these themselves where a file lacks them.
        if total := sum(not key.endswith(_COUNTER) for key in part.state_dict()):
            found[name] = total - sum(key.startswith(f"{name}.") for key in lacking), total
    parts = ", ".join(f"{name} {n} of {total}" for name, (n, total) in found.items())
    print_log(f"tensors set by the checkpoint: {parts}", logger="current")
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
