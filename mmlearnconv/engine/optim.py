"""Constructor that applies the layers' ``optim_policy``; bfloat16 wrapper for any device."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.utils import apply_to
from torch import Tensor, nn

from ..errors import UserValueError
from ..layers import LearnableConv
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
        for name, policy in self.overrides.items():
            if not set(policy) <= {"lr_mult", "decay_mult"}:
                raise UserValueError(
                    f"paramwise_cfg.optim_policy: {name!r} has {sorted(policy)}; allowed are "
                    "lr_mult and decay_mult"
                )
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
        policies = self._policies(model)
        new_groups, moved = [], Counter()
        for group in optimizer.param_groups:
            own = {}
            for parameter in [p for p in group["params"] if p in policies]:
                name, policy = policies[parameter]
                key = (name, *sorted(policy.items()))
                if key not in own:
                    own[key] = {k: v for k, v in group.items() if k != "param_names"}
                    own[key]["lr"] = group["lr"] * policy.get("lr_mult", 1.0)
                    own[key]["weight_decay"] = group["weight_decay"] * policy.get("decay_mult", 1)
                    own[key]["params"] = []
                _move(parameter, group, own[key])
                moved[f"{name} ({', '.join(f'{k}={v:g}' for k, v in policy.items())})"] += 1
            new_groups += own.values()
        # Plain dictionaries: torch.compile does not support mmengine's own kind.
        optimizer.param_groups[:] = [
            {**group} for group in optimizer.param_groups if group["params"]
        ]
        for group in new_groups:
            optimizer.add_param_group(group)
        for what, count in moved.items():
            print_log(f"optim_policy applied to {count} parameters {what}", logger="current")
        return optim_wrapper

    def _policies(self, model: nn.Module) -> dict[nn.Parameter, tuple[str, dict[str, float]]]:
        """Name and policy of each parameter that has a policy."""
        policies, names = {}, set()
        for layer in model.modules():
            if not isinstance(layer, LearnableConv):
                continue
            layer._policy_applied = True
            for name, parameter in layer.named_parameters(recurse=False):
                full = f"{type(layer).__name__}.{name}"
                names |= {name, full}
                policy = self.overrides.get(full, self.overrides.get(name))
                if policy is None:
                    policy = layer.optim_policy.get(name)
                if policy:
                    policies[parameter] = (name, policy)
        for name in self.overrides:
            if name not in names:
                raise UserValueError(
                    f"paramwise_cfg.optim_policy: {name!r} is not a parameter of the model's "
                    f"learnable convolutions; they have {sorted(names)}"
                )
        return policies


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


def _move(parameter: nn.Parameter, source: dict[str, Any], target: dict[str, Any]) -> None:
    index = next(i for i, p in enumerate(source["params"]) if p is parameter)
    target["params"].append(source["params"].pop(index))
    if "param_names" in source:
        target.setdefault("param_names", []).append(source["param_names"].pop(index))
