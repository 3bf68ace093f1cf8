"""Base class of the backbones: stages to return or freeze, norms that keep their statistics."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserValueError

KAIMING = (
    dict(type="Kaiming", layer="Conv2d"),
    dict(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
)


class Backbone(BaseModule):
    """Base class of backbones.

    Args:
        stages: how many the network has.
        out_indices: stages to return, in any order, from 0.
        frozen_stages: -1 none, 0 the stem, i the stem and the first i stages. Their parameters do
            not train and their norms keep their statistics.
        norm_eval: whether no BatchNorm updates its statistics.
        init_cfg: mmengine's.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` outside what is allowed.
    """

    def __init__(
        self,
        stages: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None,
    ) -> None:
        super().__init__(init_cfg if isinstance(init_cfg, dict | None) else list(init_cfg))
        if not out_indices or any(i not in range(stages) for i in out_indices):
            raise UserValueError(f"out_indices: {out_indices}; allowed are {list(range(stages))}")
        if not -1 <= frozen_stages <= stages:
            raise UserValueError(f"frozen_stages: {frozen_stages}; allowed are -1 to {stages}")
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def stem_and_stages(self) -> Iterable[Iterable[nn.Module]]:
        """The modules of the stem, and of each stage, in the order of ``frozen_stages``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(N, in_channels, H, W)`` to one map per index in ``out_indices``."""
        outputs = []
        for modules in self.stem_and_stages():
            for module in modules:
                x = module(x)
            outputs.append(x)
        return tuple(outputs[i + 1] for i in self.out_indices)

    def freeze(self) -> None:
        """Freeze the stages of ``frozen_stages``; constructors must end with it."""
        for module in chain(*list(self.stem_and_stages())[: self.frozen_stages + 1]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """``nn.Module.train``, which leaves frozen stages and norms in evaluation mode."""
        super().train(mode)
        self.freeze()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
