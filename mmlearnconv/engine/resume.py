"""Whether a run can go on from a checkpoint."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS

from .checkpoint import CheckpointError
from .model import unwrap_model

_KEY = "param_names"


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Stops a resumed run whose model or optimizer differs from the one that was saved.

    PyTorch matches the optimizer's state to parameters by their place, mmengine passes tensors of
    other names or shapes over. So checkpoints get the names of the optimizer's parameters, and they
    are compared before anything is loaded. Of a checkpoint without them, numbers and shapes are.

    Raises:
        CheckpointError: they differ; the message says in what.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"][_KEY] = _groups(runner)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if not runner._resume or "optimizer" not in checkpoint:
            return
        now, saved = _groups(runner), checkpoint.get("meta", {}).get(_KEY)
        problem = _changed_shapes(runner, checkpoint)
        if saved is None:
            problem = _changed_sizes(now, checkpoint["optimizer"]) or problem
        elif saved != now:
            problem = _changed_names(saved, now) or problem
        if problem:
            raise CheckpointError(
                f"--resume: the checkpoint is of another model or optimizer: {problem}. Resume "
                "with the config that it was trained with, or begin a new run from its weights "
                "with load_from"
            )


def _groups(runner: Any) -> list[list[str]]:
    """The names of the parameters of every group of every optimizer."""
    wrappers = runner.optim_wrapper
    several = isinstance(wrappers, OptimWrapperDict)
    names = {p: name for name, p in unwrap_model(runner.model).named_parameters()}
    return [
        [names.get(parameter, "") for parameter in group["params"]]
        for wrapper in (wrappers.values() if several else [wrappers])
        for group in wrapper.optimizer.param_groups
    ]


def _changed_names(saved: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str | None:
    before, after = ({name for group in groups for name in group} for groups in (saved, now))
    gone, new = sorted(before - after), sorted(after - before)
    found = [f"{_few(part)} is {what}" for part, what in ((gone, "gone"), (new, "new")) if part]
    if found:
        return "; ".join(found)
    places = [
        {name: (i, j) for i, group in enumerate(groups) for j, name in enumerate(group)}
        for groups in (saved, now)
    ]
    moved = [name for name, place in places[0].items() if places[1][name] != place] or ["one"]
    return (
        f"the optimizer's groups had {[len(group) for group in saved]} parameters and have "
        f"{[len(group) for group in now]}; {_few(moved)} is at another place (the constructor and "
        "paramwise_cfg of optim_wrapper decide that)"
    )


def _changed_sizes(now: Sequence[Sequence[str]], optimizer: dict[str, Any]) -> str | None:
    states = [optimizer] if "param_groups" in optimizer else optimizer.values()
    before = [
        len(group["params"]) for s in states if isinstance(s, dict) for group in s["param_groups"]
    ]
    after = [len(group) for group in now]
    if before == after:
        return None
    return f"the optimizer's groups had {before} parameters and have {after}"


def _changed_shapes(runner: Any, checkpoint: dict[str, Any]) -> str | None:
    saved = checkpoint.get("state_dict", {})
    for name, parameter in unwrap_model(runner.model).named_parameters():
        tensor = saved.get(name, saved.get(f"module.{name}"))
        if tensor is not None and tensor.shape != parameter.shape:
            return f"{name} was {tuple(tensor.shape)} and is {tuple(parameter.shape)}"
    return None


def _few(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} others)" * (len(names) > 1)
    return names[0] + more
