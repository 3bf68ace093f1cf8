"""Hooks for taking over plain weights, and for exact restarts."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..errors import UserValueError
from ..layers import report_takeovers
from ..layers.dke import SWAP_ALPHA, DKEConv2d
from .epochs import refuse_epochs
from .model import unwrap_model


@HOOKS.register_module()
class TakeoverReportHook(Hook):
    """Logs how many layers were set from plain weights, and how well, once all are loaded.

    This package's command lines register it. Without it the first step of the optimizer logs the
    line.
    """

    def before_train(self, runner: Any) -> None:
        report_takeovers(unwrap_model(runner.model))

    before_val = before_test = before_train


@HOOKS.register_module()
class AlphaAnnealingHook(Hook):
    r"""Widens the Gaussians of DKE layers that took over plain weights, from sharp to the paper's.

    Taking over sets :math:`\alpha` to 10, where a kernel on the grid is nearly the plain one and
    positions have small gradients. Between ``begin`` and ``end``,
    :math:`\alpha_t = \alpha_0 (\alpha_1 / \alpha_0)^{(t - begin) / (end - begin)}`; after, it is
    :math:`\alpha_1`. A layer whose :math:`\alpha` is smaller keeps its own. A resumed run continues
    with the value of its iteration.

    Args:
        end: epoch, or iteration, from which :math:`\alpha` is ``target``.
        begin: epoch, or iteration, until which it is ``start``. Default: 0.
        start: :math:`\alpha_0`. Default: 10, the value that taking over sets.
        target: :math:`\alpha_1`. Default: 2, the paper's.
        by_epoch: whether ``begin`` and ``end`` count epochs. Default: ``True``.

    Raises:
        ValueError: a number out of range, a model without DKE layers that have a Gaussian, or
            ``by_epoch`` in a loop that counts iterations.
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
            raise UserValueError(f"begin: {begin!r}, end: {end!r}; 0 <= begin < end must hold")
        if not 0 < target <= start:
            raise UserValueError(
                f"target: {target!r}, start: {start!r}; 0 < target <= start must hold"
            )
        self.begin, self.end, self.start, self.target = begin, end, start, target
        self.by_epoch = by_epoch

    def before_train(self, runner: Any) -> None:
        self._layers = [
            m
            for m in unwrap_model(runner.model).modules()
            if isinstance(m, DKEConv2d) and m.interpolation == "gauss"
        ]
        if not self._layers:
            raise UserValueError(
                f"{type(self).__name__}: the model has no DKE layer with a Gaussian"
            )
        if self.by_epoch:
            refuse_epochs(self, runner, "end")

    @torch.no_grad()
    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = runner.iter
        if self.by_epoch:
            now = runner.epoch + batch_idx / len(runner.train_dataloader)
        share = min(max((now - self.begin) / (self.end - self.begin), 0.0), 1.0)
        alpha = self.start * (self.target / self.start) ** share
        for layer in self._layers:
            layer.alpha.clamp_(max=alpha)


class _Advanced:
    """Batches after the first ones, which are loaded at once.

    mmengine 0.10 loads the batches that a resumed loop skips after the last hook that could seed
    what they draw: here that is done before, and the loop skips nothing.
    """

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        self.batches = batches
        for _ in range(count):
            next(batches)
        self.left = count

    def __next__(self) -> Any:
        if self.left > 0:
            self.left -= 1
            return None
        return next(self.batches)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Makes a resumed run repeat exactly what an uninterrupted run does.

    mmengine's checkpoints do not contain the state of random number generators. Saving it would
    take one state per rank and worker. Instead, the generators of Python, numpy and PyTorch are
    seeded anew for every iteration, from the run's seed, the iteration and the rank, and with
    another such seed before its batch is loaded.

    Workers of a data loader have their own generators. With ``num_workers=0``, and in epoch-based
    loops with ``persistent_workers=False`` (mmengine seeds new workers identically), a restart is
    exact; otherwise it differs, but only in the augmentations.

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
        # A separate generator, so that seeding workers does not affect augmentations.
        runner.train_dataloader.generator = torch.Generator()

    def before_train_epoch(self, runner: Any) -> None:
        loop = runner.train_loop
        iterator = getattr(loop, "dataloader_iterator", None)
        if runner.iter > 0 and iterator is not None and not hasattr(iterator, "skip_iter"):
            loop.dataloader_iterator = _Advanced(iterator, runner.iter)
        self._reseed(runner, runner.iter, loading=True)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._reseed(runner, runner.iter, loading=False)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._reseed(runner, runner.iter + 1, loading=True)

    def after_val(self, runner: Any) -> None:
        self._reseed(runner, runner.iter, loading=True)
