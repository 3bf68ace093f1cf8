"""Hooks that add losses on parameters."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..errors import UserValueError
from ..layers.base import LearnableConv
from ..layers.coc import CoCConv2d
from ..layers.dcls import DCLSConv
from ..ops.losses import orthogonality, repulsion
from .epochs import refuse_epochs
from .model import unwrap_model


class ParameterLossHook(Hook):
    """Adds a loss on parameters, under its own name, to the losses that the model returns.

    The detector's or segmentor's ``parse_losses`` sums and logs it with the others, so that loss
    scaling, accumulation and distributed training treat it alike.

    Args:
        weight: factor of the loss.
        begin: epoch, or iteration, from which the loss counts. Default: 0.
        by_epoch: whether ``begin`` counts epochs. Default: ``True``.

    Raises:
        ValueError: a negative ``weight`` or ``begin``, a model without layers for the loss, or a
            ``begin`` in epochs in a loop that counts iterations.
    """

    #: Name in the loss dictionary and the log.
    loss_name = "loss_parameters"

    def __init__(self, weight: float, begin: int = 0, by_epoch: bool = True) -> None:
        for name, value in (("weight", weight), ("begin", begin)):
            if value < 0:
                raise UserValueError(f"{name}: {value!r}; must not be negative")
        self.weight, self.begin, self.by_epoch = weight, begin, by_epoch

    def layers(self, model: nn.Module) -> list[LearnableConv]:
        """The layers whose parameters the loss is on."""
        raise NotImplementedError

    def loss(self, layers: list[LearnableConv]) -> Tensor:
        """The loss, unweighted; a scalar."""
        raise NotImplementedError

    def before_train(self, runner: Any) -> None:
        layers = self.layers(unwrap_model(runner.model))
        if not layers:
            raise UserValueError(f"{type(self).__name__}: the model has no layer for its loss")
        if self.by_epoch and self.begin:
            refuse_epochs(self, runner, "begin")

        def add(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            now = runner.epoch if self.by_epoch else runner.iter
            if kwargs.get("mode") == "loss" and now >= self.begin:
                output[self.loss_name] = self.weight * self.loss(layers)
            return output

        self._handle = unwrap_model(runner.model).register_forward_hook(add, with_kwargs=True)

    def after_train(self, runner: Any) -> None:
        self._handle.remove()


@HOOKS.register_module()
class RepulsiveLossHook(ParameterLossHook):
    r"""Pushes the elements of DCLS kernels apart; logged as ``loss_repulsive``.

    :math:`w R^2`, R the mean over layers, kernels and pairs of elements of
    :math:`\max(0, r - \lVert p_i - p_j \rVert_2)`. Shared positions count once.

    Args:
        weight: w. Default: 1.
        radius: r, in cells. Default: 1.
        begin: epoch, or iteration, from which the loss counts. Default: 20.
        by_epoch: whether ``begin`` counts epochs. Default: ``True``.

    Raises:
        ValueError: a number out of range, a model without DCLS layers of two elements or more, or a
            ``begin`` in epochs in a loop that counts iterations.
    """

    loss_name = "loss_repulsive"

    def __init__(
        self, weight: float = 1.0, radius: float = 1.0, begin: int = 20, by_epoch: bool = True
    ) -> None:
        super().__init__(weight, begin, by_epoch)
        if radius <= 0:
            raise UserValueError(f"radius: {radius!r}; must be positive")
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
    r"""Pulls the filters of CoC layers towards orthonormal ones; logged as ``loss_orthogonality``.

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
