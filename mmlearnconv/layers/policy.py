"""Learning rates and weight decays that the layers ask for, as parameter groups."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from ..errors import UserValueError
from ..log import logger
from .base import LearnableConv

__all__ = ["parameter_groups"]

Policy = Mapping[str, float]
_MULTIPLIERS = {"lr_mult", "decay_mult"}


def parameter_groups(
    model: nn.Module,
    groups: Iterable[Any] | None = None,
    *,
    lr: float,
    weight_decay: float = 0.0,
    optim_policy: Mapping[str, Policy] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer, with each layer's ``optim_policy`` applied.

    A parameter that a layer names in ``optim_policy`` moves to a group of such parameters, whose
    learning rate and weight decay are those of the group that it came from, times the layer's
    multipliers. All else stays in the caller's groups, in their order; the new groups follow.

    .. code-block:: python

        groups = parameter_groups(model, lr=1e-3, weight_decay=0.05)
        optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)

    Args:
        model: any model.
        groups: parameters, or groups as optimizers take them: dicts with ``params`` and, if they
            differ from the optimizer's, ``lr`` and ``weight_decay``; other keys are kept. Default:
            all parameters of the model that require gradients.
        lr: the optimizer's learning rate, for groups that have none.
        weight_decay: the optimizer's, for groups that have none. Default: 0, PyTorch's for SGD and
            Adam; AdamW's own is 0.01.
        optim_policy: overrides the layers' own: from a parameter's name, or class and name
            (``'DCLSConv2d.positions'``), to ``lr_mult`` and ``decay_mult``; empty for no
            multipliers. Default: none.

    Returns:
        list: the groups. One line of the log per policy says to how many parameters it applies.

    Raises:
        ValueError: ``optim_policy`` names a parameter that no layer has, or has a key other than
            ``lr_mult`` and ``decay_mult``; or ``groups`` are pairs of names and parameters.
    """
    if groups is None:
        groups = [p for p in model.parameters() if p.requires_grad]
    groups = list(groups)
    if groups and not isinstance(groups[0], dict):
        groups = [dict(params=groups)]
    policies = _policies(model, optim_policy or {})
    remaining: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for group in groups:
        rest = _without_parameters(group)
        by_policy: dict[str, dict[str, Any]] = {}
        for parameter, name in _members(group):
            target = rest
            if parameter in policies:
                policy, label = policies[parameter]
                counts[label] += 1
                if label not in by_policy:
                    by_policy[label] = _without_parameters(group) | dict(
                        lr=group.get("lr", lr) * policy.get("lr_mult", 1.0),
                        weight_decay=group.get("weight_decay", weight_decay)
                        * policy.get("decay_mult", 1.0),
                    )
                target = by_policy[label]
            target["params"].append(parameter)
            if name is not None:
                target["param_names"].append(name)
        remaining += [rest] if rest["params"] else []
        added += by_policy.values()
    for label, count in counts.items():
        logger.info(f"optim_policy applied to {count} parameters {label}")
    return remaining + added


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {**group, "params": []}
    if "param_names" in group:
        empty["param_names"] = []
    return empty


def _members(group: dict[str, Any]) -> Iterator[tuple[nn.Parameter, str | None]]:
    """A group's parameters and, where it has them, their names."""
    params = group["params"]
    params = [params] if isinstance(params, nn.Parameter) else list(params)
    if any(isinstance(parameter, tuple) for parameter in params):
        raise UserValueError("groups: (name, parameter) pairs; give the parameters without names")
    names = group.get("param_names") or [None] * len(params)
    yield from zip(params, names, strict=True)


def _policies(
    model: nn.Module, overrides: Mapping[str, Policy]
) -> dict[nn.Parameter, tuple[Policy, str]]:
    """The multipliers of each parameter that has some, and what they are called in a log."""
    for name, policy in overrides.items():
        if not set(policy) <= _MULTIPLIERS:
            raise UserValueError(
                f"optim_policy: {name!r} has {sorted(policy)}; allowed are lr_mult and decay_mult"
            )
    policies: dict[nn.Parameter, tuple[Policy, str]] = {}
    names: set[str] = set()
    for layer in model.modules():
        if not isinstance(layer, LearnableConv):
            continue
        layer._policy_applied = True
        for name, parameter in layer.named_parameters(recurse=False):
            full = f"{type(layer).__name__}.{name}"
            names |= {name, full}
            policy = overrides.get(full, overrides.get(name))
            if policy is None:
                policy = layer.optim_policy.get(name)
            if policy:
                multipliers = ", ".join(f"{key}={value:g}" for key, value in policy.items())
                policies[parameter] = policy, f"{name} ({multipliers})"
    for name in overrides:
        if name not in names:
            raise UserValueError(
                f"optim_policy: {name!r} is not a parameter of the model's learnable convolutions; "
                f"they have {sorted(names)}"
            )
    return policies
