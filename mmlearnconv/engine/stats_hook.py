"""A hook that logs what the layers learn."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..analysis import stage_of
from ..errors import UserValueError
from ..layers.base import LearnableConv
from ..layers.dcls import DCLSConv
from ..layers.drconv import DRConv2d
from .model import unwrap_model


@HOOKS.register_module()
class LearnableConvStatsHook(Hook):
    """Logs what the layers learn, stage by stage, as scalars of every visualiser.

    A stage has the name of its modules, cut off before the last number (``backbone.stages.2``,
    ``neck.fpn_convs``). The scalars of a stage are:

    - ``position_step``: mean distance in cells that positions of DCLS and DKE moved per iteration
      since they were last logged;
    - ``position_radius``: mean distance in cells of these positions from the kernel's centre; a 3x3
      grid has 1.07;
    - ``positions_at_edge``: fraction of DCLS elements on the window's edge; if it grows, enlarge
      the window;
    - ``regions_entropy``: entropy in bits of DRConv's regions over the locations of a batch, at
      most log2 of the number of regions;
    - ``regions_empty``: mean number of regions per layer that no location chose.

    Args:
        interval: iterations between two records. Default: 50.

    Raises:
        ValueError: ``interval`` below 1.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise UserValueError(f"interval: {interval!r}; must be at least 1")
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        self._stages: dict[str, list[LearnableConv]] = {}
        for name, module in unwrap_model(runner.model).named_modules():
            if isinstance(module, LearnableConv):
                self._stages.setdefault(stage_of(name), []).append(module)
        self._remember_positions(runner.iter)
        self._regions: dict[DRConv2d, Tensor] = {}
        self._handles: list[Any] = []

    def _remember_positions(self, iteration: int) -> None:
        found = (_positions(layer) for layers in self._stages.values() for layer in layers)
        self._last_positions = {p: p.detach().clone() for p in found if p is not None}
        self._last_iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if (runner.iter + 1) % self.interval:
            return
        for layers in self._stages.values():
            for layer in layers:
                if isinstance(layer, DRConv2d):
                    self._handles.append(
                        layer.register_forward_hook(self._count_regions, with_kwargs=True)
                    )

    @torch.no_grad()
    def _count_regions(
        self, layer: DRConv2d, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        guide = kwargs.get("guide", args[1] if len(args) > 1 else None)
        guide = layer.guide(args[0]) if guide is None else guide
        counts = guide.argmax(1).flatten().bincount(minlength=layer.regions)
        self._regions[layer] = self._regions.get(layer, 0) + counts

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if (runner.iter + 1) % self.interval:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for stage, layers in self._stages.items():
            for name, values in self._measure(layers, runner.iter + 1).items():
                value = torch.stack(values).mean().item()
                runner.message_hub.update_scalar(f"train/{name}/{stage}", value)
        self._remember_positions(runner.iter + 1)
        self._regions.clear()

    @torch.no_grad()
    def _measure(self, layers: list[LearnableConv], iteration: int) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        # After a restart the first record covers fewer than an interval.
        iterations = iteration - self._last_iteration
        for layer in layers:
            positions = _positions(layer)
            if positions is not None:
                # DCLS has the axes first, DKE last.
                axis = 0 if isinstance(layer, DCLSConv) else -1
                moved = (positions - self._last_positions[positions]).norm(dim=axis).mean()
                found.setdefault("position_step", []).append(moved / iterations)
                found.setdefault("position_radius", []).append(positions.norm(dim=axis).mean())
                if isinstance(layer, DCLSConv):
                    found.setdefault("positions_at_edge", []).append(layer.edge_fraction())
            if layer in self._regions:
                counts = self._regions[layer].double()
                share = counts / counts.sum().clamp_min(1)
                entropy = torch.special.entr(share).sum() / np.log(2)
                found.setdefault("regions_entropy", []).append(entropy)
                found.setdefault("regions_empty", []).append((counts == 0).sum().double())
        return found


def _positions(layer: LearnableConv) -> nn.Parameter | None:
    """The positions that a layer holds, if any; shared ones are their owner's."""
    return dict(layer.named_parameters(recurse=False)).get("positions")
