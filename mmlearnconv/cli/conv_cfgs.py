"""``conv_cfg`` and swaps of a config: types that exist, and components that use them."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ..catalog import CATALOG, find_operator
from ..errors import UserValueError
from ..layers.arguments import unknown
from .nested import nested_dicts

_NAMES = [operator.name for operator in CATALOG]


def check_conv_types(cfg: Config) -> None:
    """Make sure that every convolution that a config names is registered.

    Raises:
        ValueError: a type is unknown; the message has the nearest one.
    """
    with MODELS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        for path, conv in _find(cfg.get("model")):
            kind = conv.get("type")
            if isinstance(kind, str) and registry.get(kind) is None:
                raise UserValueError(f"{path}.type: {unknown(kind, _NAMES)}")


def check_conv_cfg_used(cfg: Config, model: nn.Module) -> None:
    """Make sure that components build convolutions of the ``conv_cfg`` that they are given.

    Some take the argument and ignore it. Folded models are not checked.

    Args:
        cfg: the config that the model was built from.
        model: the model.

    Raises:
        ValueError: a component has no such layer.
    """
    if cfg.model.get("fold"):
        return
    target = cfg.model.get("target", cfg.model.get("type"))
    for path, conv in _find(cfg.model):
        kind = conv.get("type")
        operator = find_operator(kind)
        if not path.endswith(".conv_cfg") or operator is None:
            continue
        names = path.split(".")[1:-1]
        component = model
        depth = 0
        for name in names:
            child = _child(component, name)
            if child is None:
                break
            component, depth = child, depth + 1
        # The model itself cannot be checked: the part has another name there.
        if depth and not any(isinstance(m, operator.layer) for m in component.modules()):
            raise UserValueError(
                f"{path}: {type(component).__name__} builds no layer of it, so that type "
                f"{kind!r} has no effect there. Remove it, and replace convolutions by a swap: "
                f"model=dict(type='SwapConv', target={target!r}, "
                f"swaps=[dict(pattern='{'.'.join(names[:depth])}.*', conv=dict(type={kind!r}))])"
            )


def explain_refusal(error: TypeError) -> str | None:
    """What to do where a component has no argument ``conv_cfg``; ``None`` for other errors."""
    if "unexpected keyword argument 'conv_cfg'" not in str(error):
        return None
    return (
        f"{error}. It takes no conv_cfg: remove it, and replace its convolutions by a swap, "
        "model=dict(type='SwapConv', target=..., swaps=[dict(pattern=..., conv=dict(type=...))])"
    )


def _find(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every ``conv_cfg``, and ``conv`` of a swap, of a config's model, with its dotted path."""
    for path, part in nested_dicts(model, "model"):
        if path.endswith(".conv_cfg") or (path.endswith(".conv") and ".swaps." in path):
            yield path, part


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_children()).get(name)
