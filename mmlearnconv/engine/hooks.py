"""Hooks for mmengine's Runner: losses on parameters, what to watch, and exact restarts."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from ..layers import CoCConv2d, DCLSConv, DKEConv2d, DRConv2d, LearnableConv
from ..layers.dke import SWAP_ALPHA
from ..ops import orthogonality, repulsion
from .model import bare_model


def _positions(layer: LearnableConv) -> nn.Parameter | None:
    """The positions that a layer holds, if any; shared ones are their owner's."""
    return dict(layer.named_parameters(recurse=False)).get("positions")


def _refuse_epochs(hook: Hook, runner: Any, name: str) -> None:
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        raise ValueError(
            f"{type(hook).__name__}: {name}={getattr(hook, name)} counts epochs, and this loop has "
            "none; count iterations, with by_epoch=False"
        )


class ParameterLossHook(Hook):
    """Adds a loss on parameters to what the model returns in training, under a name of its own.

    The detector's or segmentor's ``parse_losses`` sums and logs it with the others, so that loss
    scaling, accumulation and distributed training treat it alike.

    Args:
        weight: factor of the loss.
        begin: epoch, or iteration, from which the loss counts.
        by_epoch: whether ``begin`` counts epochs.

    Raises:
        ValueError: a negative ``weight`` or ``begin``.
    """

    #: Name in the loss dictionary and the log.
    loss_name = "loss_parameters"

    def __init__(self, weight: float, begin: int = 0, by_epoch: bool = True) -> None:
        for name, value in (("weight", weight), ("begin", begin)):
            if value < 0:
                raise ValueError(f"{name}: {value!r}; must not be negative")
        self.weight, self.begin, self.by_epoch = weight, begin, by_epoch

    def layers(self, model: nn.Module) -> list[LearnableConv]:
        """The layers whose parameters the loss is on."""
        raise NotImplementedError

    def loss(self, layers: list[LearnableConv]) -> Tensor:
        """The loss, unweighted; a scalar."""
        raise NotImplementedError

    def before_train(self, runner: Any) -> None:
        layers = self.layers(bare_model(runner.model))
        if not layers:
            raise ValueError(f"{type(self).__name__}: the model has no layer for its loss")
        if self.by_epoch and self.begin:
            _refuse_epochs(self, runner, "begin")

        def add(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            now = runner.epoch if self.by_epoch else runner.iter
            if kwargs.get("mode") == "loss" and now >= self.begin:
                output[self.loss_name] = self.weight * self.loss(layers)
            return output

        self._handle = bare_model(runner.model).register_forward_hook(add, with_kwargs=True)

    def after_train(self, runner: Any) -> None:
        self._handle.remove()


@HOOKS.register_module()
class RepulsiveLossHook(ParameterLossHook):
    r"""Keeps the elements of DCLS kernels apart, as ``loss_repulsive``.

    :math:`w R^2`, R the mean over layers, kernels and pairs of elements of
    :math:`\max(0, r - \lVert p_i - p_j \rVert_2)`. Shared positions count once.

    Args:
        weight: w.
        radius: r, in cells. Default: 1.
        begin: epoch, or iteration, from which the loss counts. Default: 20.
        by_epoch: whether ``begin`` counts epochs. Default: ``True``.

    Raises:
        ValueError: a number out of range, or a model without DCLS layers of two elements or more.
    """

    loss_name = "loss_repulsive"

    def __init__(
        self, weight: float = 1.0, radius: float = 1.0, begin: int = 20, by_epoch: bool = True
    ) -> None:
        super().__init__(weight, begin, by_epoch)
        if radius <= 0:
            raise ValueError(f"radius: {radius!r}; must be positive")
        self.radius = radius

    def layers(self, model: nn.Module) -> list[LearnableConv]:
        return [
            m
            for m in model.modules()
            if isinstance(m, DCLSConv) and m.position_owner is m and m.kernel_count > 1
        ]

    def loss(self, layers: list[LearnableConv]) -> Tensor:
        means = [repulsion(layer.positions, self.radius) for layer in layers]
        return torch.stack(means).mean().square()


@HOOKS.register_module()
class OrthogonalityLossHook(ParameterLossHook):
    r"""Draws the filters of CoC layers to orthonormal ones, as ``loss_orthogonality``.

    :math:`w` times the mean over layers of :math:`\lVert K K^T - I \rVert_F^2 / n^2`, K the n
    flattened filters of a layer after association and normalisation.

    Args:
        weight: w.
        begin: epoch, or iteration, from which the loss counts. Default: 0.
        by_epoch: whether ``begin`` counts epochs. Default: ``True``.

    Raises:
        ValueError: a number out of range, or a model without CoC layers.
    """

    loss_name = "loss_orthogonality"

    def layers(self, model: nn.Module) -> list[LearnableConv]:
        return [m for m in model.modules() if isinstance(m, CoCConv2d)]

    def loss(self, layers: list[LearnableConv]) -> Tensor:
        return torch.stack([orthogonality(layer.dense_kernel()) for layer in layers]).mean()


@HOOKS.register_module()
class AlphaAnnealingHook(Hook):
    r"""Widens the Gaussians of DKE layers that took over plain weights, from sharp to the paper's.

    Taking over sets :math:`\alpha` to 10, where a kernel on the grid is nearly the plain one and
    positions have small gradients. Between ``begin`` and ``end``,
    :math:`\alpha_t = \alpha_0 (\alpha_1 / \alpha_0)^{(t - begin) / (end - begin)}`; after, it is
    :math:`\alpha_1`. A layer whose :math:`\alpha` is smaller keeps its own. What a run resumes with
    follows from its iteration alone.

    Args:
        end: epoch, or iteration, from which :math:`\alpha` is ``target``.
        begin: epoch, or iteration, until which it is ``start``. Default: 0.
        start: :math:`\alpha_0`. Default: 10, to which taking over sets it.
        target: :math:`\alpha_1`. Default: 2, the paper's.
        by_epoch: whether ``begin`` and ``end`` count epochs. Default: ``True``.

    Raises:
        ValueError: a number out of range, or a model without DKE layers that have a Gaussian.
    """

    def __init__(
        self,
        end: int,
        begin: int = 0,
        start: float = SWAP_ALPHA,
        target: float = 2.0,
        by_epoch: bool = True,
    ) -> None:
        if not 0 <= begin < end:
            raise ValueError(f"begin: {begin!r}, end: {end!r}; 0 <= begin < end must hold")
        if not 0 < target <= start:
            raise ValueError(f"target: {target!r}, start: {start!r}; 0 < target <= start must hold")
        self.begin, self.end, self.start, self.target = begin, end, start, target
        self.by_epoch = by_epoch

    def before_train(self, runner: Any) -> None:
        self._layers = [
            m
            for m in bare_model(runner.model).modules()
            if isinstance(m, DKEConv2d) and m.interpolation == "gauss"
        ]
        if not self._layers:
            raise ValueError(f"{type(self).__name__}: the model has no DKE layer with a Gaussian")
        if self.by_epoch:
            _refuse_epochs(self, runner, "end")

    @torch.no_grad()
    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = runner.iter
        if self.by_epoch:
            now = runner.epoch + batch_idx / len(runner.train_dataloader)
        share = min(max((now - self.begin) / (self.end - self.begin), 0.0), 1.0)
        alpha = self.start * (self.target / self.start) ** share
        for layer in self._layers:
            layer.alpha.clamp_(max=alpha)


@HOOKS.register_module()
class LearnableConvStatsHook(Hook):
    """Logs what the layers learn, part by part, as scalars of every visualiser.

    Parts are stages: names of modules up to the last number but one (``backbone.stages.2``,
    ``neck.fpn_convs``). For each,

    - ``positions_speed``: mean distance in cells that positions moved an iteration since they were
      last logged (of DCLS and DKE);
    - ``positions_reach``: distance in cells that positions of DCLS and DKE have from the kernel's
      centre, the mean: a 3x3 grid has 1.07;
    - ``positions_at_edge``: share of DCLS elements that lie on the window's edge on an axis: if it
      grows, enlarge the window;
    - ``regions_entropy``: entropy in bits of DRConv's regions over the locations of a batch, at
      most the logarithm of their number; ``regions_empty``: regions that no location chose, a mean
      over layers.

    Args:
        interval: iterations between two records. Default: 50.

    Raises:
        ValueError: ``interval`` below 1.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f"interval: {interval!r}; must be at least 1")
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        self._stages: dict[str, list[LearnableConv]] = {}
        for name, module in bare_model(runner.model).named_modules():
            if isinstance(module, LearnableConv):
                self._stages.setdefault(stage_of(name), []).append(module)
        self._places = self._copy_positions()
        self._regions: dict[DRConv2d, Tensor] = {}
        self._handles: list[Any] = []

    def _copy_positions(self) -> dict[nn.Parameter, Tensor]:
        found = (_positions(layer) for layers in self._stages.values() for layer in layers)
        return {p: p.detach().clone() for p in found if p is not None}

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
            for name, values in self._measure(layers).items():
                value = torch.stack(values).mean().item()
                runner.message_hub.update_scalar(f"train/{name}/{stage}", value)
        self._places = self._copy_positions()
        self._regions.clear()

    @torch.no_grad()
    def _measure(self, layers: list[LearnableConv]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for layer in layers:
            positions = _positions(layer)
            if positions is not None:
                # DCLS has the axes first, DKE last.
                axis = 0 if isinstance(layer, DCLSConv) else -1
                moved = (positions - self._places[positions]).norm(dim=axis).mean()
                found.setdefault("positions_speed", []).append(moved / self.interval)
                found.setdefault("positions_reach", []).append(positions.norm(dim=axis).mean())
                if isinstance(layer, DCLSConv):
                    found.setdefault("positions_at_edge", []).append(layer.share_at_edge())
            if layer in self._regions:
                counts = self._regions[layer].double()
                share = counts / counts.sum().clamp_min(1)
                entropy = torch.special.entr(share).sum() / np.log(2)
                found.setdefault("regions_entropy", []).append(entropy)
                found.setdefault("regions_empty", []).append((counts == 0).sum().double())
        return found


def stage_of(name: str) -> str:
    """The part of a model that a layer belongs to, for a figure a part.

    ``backbone.stages.2.1.depthwise_conv`` is of ``backbone.stages.2``, ``backbone.layer3.4.conv2``
    of ``backbone.layer3``, ``neck.fpn_convs.0.conv`` of ``neck.fpn_convs``.
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1]]) if numbers else ".".join(parts[:-1]) or name


@HOOKS.register_module()
class ReseedHook(Hook):
    """Makes a resumed run repeat what an uninterrupted one does, number for number.

    mmengine's checkpoints hold no state of random number generators. Instead of saving it, which
    would be one state a rank and worker, every iteration starts from a seed of its own, of the
    run's seed, the iteration and the rank; loading its batch, from another. Python's, numpy's and
    PyTorch's generators are seeded.

    What workers of a data loader draw is their own: with ``num_workers=0``, and in loops by epoch
    with ``persistent_workers=False`` (mmengine seeds new workers alike), a restart is exact; else
    only its augmentations differ.

    Args:
        seed: the run's seed. Default: the runner's (``randomness=dict(seed=...)``).
    """

    priority = "VERY_LOW"

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def _reseed(self, runner: Any, iteration: int, loading: bool) -> None:
        seed = runner.seed if self.seed is None else self.seed
        drawn = np.random.SeedSequence([seed, iteration, get_rank(), loading]).generate_state(1)[0]
        random.seed(int(drawn))
        np.random.seed(drawn)
        torch.manual_seed(int(drawn))

    def before_train(self, runner: Any) -> None:
        # An iterator draws a seed for its workers: not from what augmentations are drawn from.
        runner.train_dataloader.generator = torch.Generator()

    def before_train_epoch(self, runner: Any) -> None:
        self._reseed(runner, runner.iter, loading=True)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._reseed(runner, runner.iter, loading=False)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._reseed(runner, runner.iter + 1, loading=True)

    def after_val(self, runner: Any) -> None:
        self._reseed(runner, runner.iter, loading=True)
