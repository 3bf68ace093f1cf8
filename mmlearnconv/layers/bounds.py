"""Bounds of positions: enforced after every optimizer step, in any training loop.

No config or training script has to do it. The first layer that has bounds, or an ``optim_policy``,
registers a hook on all PyTorch optimizers. ``clamp_after_steps(False)`` removes the hook; a custom
training loop can call :func:`clamp_parameters` instead.
"""

import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from .base import LearnableConv

__all__ = ["clamp_after_steps", "clamp_parameters"]


def clamp_parameters(model: nn.Module) -> None:
    """Bring the positions of all learnable convolutions of a model back into their bounds."""
    for module in model.modules():
        if module in _layers:
            module.clamp_parameters()


def clamp_after_steps(enabled: bool = True) -> None:
    """Turn the enforcement of bounds after every optimizer step of the process on or off.

    Args:
        enabled: ``False`` leaves it to :func:`clamp_parameters`. Default: ``True``, which is also
            how a process starts.
    """
    global _handle, _wanted
    _wanted = enabled
    if _handle is not None:
        _handle.remove()
        _handle = None
    if enabled and _layers:
        _handle = register_optimizer_step_post_hook(_after_step)


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
    """Enforce a layer's bounds from now on, and log if its ``optim_policy`` is not applied."""
    _layers.add(layer)
    if _wanted and _handle is None:
        clamp_after_steps()


def _after_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    if not _layers:
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    neglected: dict[str, dict[str, float]] = {}
    for layer in list(_layers):
        trained = {n for n, p in layer.named_parameters(recurse=False) if id(p) in stepped}
        if _is_flattened(layer):
            _warn_of_flattened(layer)
            continue
        if not trained:
            continue
        layer.clamp_parameters()
        if not layer._policy_applied:
            layer._policy_applied = True
            for name in layer.optim_policy.keys() & trained:
                neglected[f"{type(layer).__name__}.{name}"] = layer.optim_policy[name]
    if neglected:
        _log_neglected(neglected)


def _is_flattened(layer: "LearnableConv") -> bool:
    """Whether a parameter with bounds has lost its shape, or is computed from another one."""
    own = layer._parameters
    return any(
        name not in own or own[name].shape != shape for name, shape in layer.bounded_shapes.items()
    )


def _warn_of_flattened(layer: "LearnableConv") -> None:
    global _warned
    if _warned:
        return
    _warned = True
    print_log(
        f"{type(layer).__name__}: {', '.join(layer.bounded_shapes)} cannot be kept in bounds: "
        "FullyShardedDataParallel flattened it, or it is parametrised. Leave these layers out "
        "(ignored_modules), or call mmlearnconv.layers.clamp_parameters(model) after every step "
        "while the parameters are unsharded (summon_full_params)",
        logger="current",
        level=logging.WARNING,
    )


def _log_neglected(policies: dict[str, dict[str, float]]) -> None:
    """Log the parameters that train without the multipliers that their paper uses."""
    wishes = ", ".join(
        f"{name} ({' '.join(f'{k}={v:g}' for k, v in policy.items())})"
        for name, policy in sorted(policies.items())
    )
    print_log(
        f"trained without the papers' multipliers of learning rate and weight decay: {wishes}. To "
        "apply them: optim_wrapper = dict(constructor='LearnableConvOptimWrapperConstructor')",
        logger="current",
        level=logging.INFO,
    )


_layers: "weakref.WeakSet[LearnableConv]" = weakref.WeakSet()
_handle: Any = None
_wanted = True
_warned = False
