"""Optimizer-wrapper constructor that gives every layer's parameters what the layer asks for."""

from collections import Counter
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..layers import LearnableConv


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
                decay_rate=0.95, decay_type='layer_wise', num_layers=6))

    Args:
        optim_wrapper_cfg: as mmengine's constructors.
        paramwise_cfg: the other constructor's, plus ``base``, its type name. Default of ``base``:
            ``'DefaultOptimWrapperConstructor'``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        base = paramwise_cfg.pop("base", "DefaultOptimWrapperConstructor")
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
        policies = {
            parameter: (name, layer.optim_policy[name])
            for layer in model.modules()
            if isinstance(layer, LearnableConv)
            for name, parameter in layer.named_parameters(recurse=False)
            if name in layer.optim_policy
        }
        new_groups, moved = [], Counter()
        for group in optimizer.param_groups:
            own = {}
            for parameter in [p for p in group["params"] if p in policies]:
                name, policy = policies[parameter]
                if name not in own:
                    own[name] = {k: v for k, v in group.items() if k != "param_names"}
                    own[name]["lr"] = group["lr"] * policy.get("lr_mult", 1.0)
                    own[name]["weight_decay"] = group["weight_decay"] * policy.get("decay_mult", 1)
                    own[name]["params"] = []
                _move(parameter, group, own[name])
                moved[f"{name} ({', '.join(f'{k}={v:g}' for k, v in policy.items())})"] += 1
            new_groups += own.values()
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        for group in new_groups:
            optimizer.add_param_group(group)
        for what, count in moved.items():
            print_log(f"optim_policy applied to {count} parameters {what}", logger="current")
        return optim_wrapper


def _move(parameter: nn.Parameter, source: dict[str, Any], target: dict[str, Any]) -> None:
    index = next(i for i, p in enumerate(source["params"]) if p is parameter)
    target["params"].append(source["params"].pop(index))
    if "param_names" in source:
        target.setdefault("param_names", []).append(source["param_names"].pop(index))
