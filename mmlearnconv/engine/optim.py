"""Constructor that applies the layers' ``optim_policy``; bfloat16 wrapper for any device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.utils import apply_to
from torch import Tensor, nn

from ..layers import parameter_groups
from .model import unwrap_model


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearnableConvOptimWrapperConstructor:
    """Another constructor's parameter groups, with each layer's ``optim_policy`` applied to them.

    The parameters that a layer names in ``optim_policy`` move to groups of their own, whose
    learning rate and weight decay are what the other constructor chose, times the layer's
    multipliers.

    .. code-block:: python

        optim_wrapper = dict(
            constructor='LearnableConvOptimWrapperConstructor',
            paramwise_cfg=dict(
                base='LearningRateDecayOptimizerConstructor',
                decay_rate=0.95, decay_type='layer_wise', num_layers=6,
                optim_policy=dict(offset_weight=dict(lr_mult=0.1))))

    Args:
        optim_wrapper_cfg: as mmengine's constructors.
        paramwise_cfg: the other constructor's, plus ``base``, its type name (default:
            ``'DefaultOptimWrapperConstructor'``), and ``optim_policy``, which overrides the layers'
            own: a dict from parameter name, or class and parameter (``'DCLSConv2d.positions'``), to
            a dict of ``lr_mult`` and ``decay_mult``; an empty one for no multipliers. Default:
            ``None``.

    Raises:
        ValueError: ``optim_policy`` names a parameter that no layer has, or has a key other than
            ``lr_mult`` and ``decay_mult``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        base = paramwise_cfg.pop("base", "DefaultOptimWrapperConstructor")
        self.overrides = dict(paramwise_cfg.pop("optim_policy", None) or {})
        self.base = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type=base,
                optim_wrapper_cfg=optim_wrapper_cfg,
                paramwise_cfg=paramwise_cfg or None,
            )
        )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        optim_wrapper = self.base(model)
        optimizer = optim_wrapper.optimizer
        groups = parameter_groups(
            model,
            optimizer.param_groups,
            lr=optimizer.defaults.get("lr", 0.0),
            weight_decay=optimizer.defaults.get("weight_decay", 0.0),
            optim_policy=self.overrides,
        )
        # Plain dictionaries: torch.compile does not support mmengine's own kind.
        optimizer.param_groups.clear()
        for group in groups:
            optimizer.add_param_group(group)
        return optim_wrapper


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's optimizer wrapper, which runs the model in bfloat16 by autocast.

    It works on any device, while mmengine's ``AmpOptimWrapper`` needs a GPU. bfloat16 has the range
    of float32, so the loss is not scaled. mmcv's CPU operations support only float32; on the CPU a
    detector or segmentor therefore runs ``extract_feat`` in bfloat16 and its heads in float32.

    Args:
        **kwargs: as ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        bare = unwrap_model(model)
        device = next(bare.parameters()).device.type
        with super().optim_context(model):
            if device == "cpu" and hasattr(bare, "extract_feat"):
                bare.extract_feat = partial(_in_bfloat16, bare.extract_feat)
                try:
                    yield
                finally:
                    del bare.extract_feat
            else:
                with torch.autocast(device, dtype=torch.bfloat16):
                    yield


def _in_bfloat16(extract: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run under the CPU's autocast and return float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = extract(*args, **kwargs)
    return apply_to(features, lambda x: isinstance(x, Tensor), Tensor.float)
