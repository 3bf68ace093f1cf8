"""Bounds of positions: enforced after every optimizer step, in any training loop.

No config or training script has to do it. The first layer that has bounds or an ``optim_policy``,
or took over a plain kernel, registers a hook on all PyTorch optimizers.
``clamp_after_steps(False)`` removes it; a training loop can call :func:`clamp_parameters` instead.
"""

import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..log import logger

if TYPE_CHECKING:
    from .base import LearnableConv

__all__ = ["clamp_after_steps", "clamp_parameters"]


class _StepHook:
    """The hook on all optimizers of the process, and the layers that it looks after."""

    def __init__(self) -> None:
        self.layers: weakref.WeakSet[LearnableConv] = weakref.WeakSet()
        self.enabled = True
        self.handle: Any = None
        self.warned_of_flattened = False

    def register(self) -> None:
        """Register the hook, or remove it, as ``enabled`` says and if there are layers."""
        wanted = self.enabled and len(self.layers) > 0
        if wanted and self.handle is None:
            self.handle = register_optimizer_step_post_hook(self)
        if not wanted and self.handle is not None:
            self.handle.remove()
            self.handle = None

    def __call__(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        neglected: dict[str, dict[str, float]] = {}
        taken_over: list[LearnableConv] = []
        for layer in list(self.layers):
            if _is_flattened(layer):
                self.warn_of_flattened(layer)
                continue
            trained = {n for n, p in layer.named_parameters(recurse=False) if id(p) in stepped}
            if not trained:
                continue
            layer.clamp_parameters()
            if layer.takeover_error is not None and not layer._takeover_reported:
                taken_over.append(layer)
            if not layer._policy_applied:
                layer._policy_applied = True
                for name in layer.optim_policy.keys() & trained:
                    neglected[f"{type(layer).__name__}.{name}"] = layer.optim_policy[name]
        if neglected:
            _log_neglected(neglected)
        if taken_over:
            log_takeovers(taken_over)

    def warn_of_flattened(self, layer: "LearnableConv") -> None:
        if self.warned_of_flattened:
            return
        self.warned_of_flattened = True
        logger.warning(
            f"{type(layer).__name__}: {', '.join(layer.bounded_shapes)} cannot be kept in bounds: "
            "FullyShardedDataParallel flattened it, or it is parametrised. Leave these layers out "
            "(ignored_modules), or call mmlearnconv.layers.clamp_parameters(model) after every "
            "step while the parameters are unsharded (summon_full_params)"
        )


_hook = _StepHook()


def clamp_parameters(model: nn.Module) -> None:
    """Bring the positions of all learnable convolutions of a model back into their bounds."""
    for module in model.modules():
        if module in _hook.layers:
            module.clamp_parameters()


def clamp_after_steps(enabled: bool = True) -> None:
    """Turn the enforcement of bounds after every optimizer step of the process on or off.

    Args:
        enabled: ``False`` leaves it to :func:`clamp_parameters`. Default: ``True``, which is also
            how a process starts.
    """
    _hook.enabled = enabled
    _hook.register()


def clamp_to_window_(positions: Tensor, window: Sequence[int]) -> None:
    """Bring positions into a window of cells in place, also those that FSDP2 has sharded.

    Args:
        positions: offsets from the window's middle in cells, ``(axes, ...)``.
        window: cells per axis.
    """
    first = 0
    sharded: Any = positions
    if hasattr(sharded, "to_local"):
        (chunk,) = sharded.__create_chunk_list__()
        first, positions = chunk.offsets[0], sharded.to_local()
    for along, cells in zip(positions, window[first:], strict=False):
        along.clamp_(-(cells // 2), (cells - 1) // 2)


def watch(layer: "LearnableConv") -> None:
    """Enforce a layer's bounds from now on; log what it took over, and a neglected policy."""
    _hook.layers.add(layer)
    _hook.register()


def _is_flattened(layer: "LearnableConv") -> bool:
    """Whether a parameter with bounds has lost its shape, or is computed from another one."""
    parameters = layer._parameters
    return any(
        name not in parameters or parameters[name].shape != shape
        for name, shape in layer.bounded_shapes.items()
    )


def log_takeovers(layers: "Collection[LearnableConv]") -> None:
    """Log, in one line, how many layers were set from plain kernels, and how well."""
    classes = ", ".join(sorted({type(layer).__name__ for layer in layers}))
    errors = [layer.takeover_error or 0.0 for layer in layers]
    logger.info(
        f"{len(layers)} {classes} layers set from plain convolution weights; "
        f"largest relative error of a kernel {max(errors):.1e}"
    )
    for layer in layers:
        layer._takeover_reported = True


def _log_neglected(policies: dict[str, dict[str, float]]) -> None:
    """Log the parameters that train without the multipliers that their paper uses."""
    wishes = ", ".join(
        f"{name} ({' '.join(f'{k}={v:g}' for k, v in policy.items())})"
        for name, policy in sorted(policies.items())
    )
    logger.info(
        f"trained without the papers' multipliers of learning rate and weight decay: {wishes}. To "
        "apply them: optim_wrapper = dict(constructor='LearnableConvOptimWrapperConstructor') in a "
        "config, mmlearnconv.layers.parameter_groups(model, ...) in a training loop"
    )
