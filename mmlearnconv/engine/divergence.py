"""Stopping a run that a step has ruined."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ..errors import UserError
from ..layers.base import LearnableConv
from .model import unwrap_model

_NAMED = 4


class DivergenceError(UserError, RuntimeError):
    """A parameter of a learnable convolution is NaN or infinite."""


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops training in the step that makes a learnable convolution's parameter NaN or infinite.

    Positions, offsets and widths do not recover from that. The error names the iteration, layers
    and parameters, and comes before a checkpoint of them is written. mmengine waits for the loss in
    every iteration; the check adds no synchronisation. This package's command lines register it.

    Raises:
        DivergenceError: the last step did.
    """

    def before_train(self, runner: Any) -> None:
        self._parameters: dict[str, nn.Parameter] = {}
        self._kinds: dict[str, str] = {}
        for name, layer in unwrap_model(runner.model).named_modules():
            if isinstance(layer, LearnableConv):
                for own, parameter in layer.named_parameters(prefix=name):
                    if parameter.requires_grad:
                        self._parameters[own] = parameter
                        self._kinds[own] = type(layer).__name__

    @torch.no_grad()
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not self._parameters:
            return
        # The cheapest function of all values that shows a bad one; a sum may overflow, too.
        sums = [p.sum(dtype=torch.float32) for p in self._parameters.values()]
        if not torch.stack([s.to(sums[0].device) for s in sums]).isfinite().all():
            bad = {n: p for n, p in self._parameters.items() if not p.isfinite().all()}
            if bad:
                raise DivergenceError(self._report(runner.iter + 1, bad))

    def _report(self, iteration: int, bad: dict[str, nn.Parameter]) -> str:
        named = [
            f"{name} of {self._kinds[name]} ({(~p.isfinite()).sum()} of {p.numel()} values)"
            for name, p in list(bad.items())[:_NAMED]
        ]
        more = f" and {len(bad) - _NAMED} more parameters" if len(bad) > _NAMED else ""
        return (
            f"iteration {iteration} made NaN or infinite: {', '.join(named)}{more}. Lower the "
            "learning rate or warm up for longer, clip gradients "
            "(optim_wrapper.clip_grad=dict(max_norm=1)), give positions and offsets their own "
            "rates (optim_wrapper.constructor='LearnableConvOptimWrapperConstructor'); "
            "then resume from the last checkpoint"
        )
