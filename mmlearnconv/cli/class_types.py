"""Configs in pure Python, whose types are classes, read as configs in text are."""

from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import Registry

from ..catalog import find_operator
from .nested import nested_dicts

_PACKAGE = __name__.split(".")[0]
_KEYS = "type", "target", "constructor", "base"


def toolbox_of(kind: Any, toolboxes: dict[str, str]) -> str | None:
    """The toolbox that a class, or one that it inherits from, belongs to."""
    modules = [base.__module__.split(".")[0] for base in getattr(kind, "__mro__", ())]
    return next((module for module in modules if module in toolboxes), None)


def name_classes(cfg: Config) -> None:
    """Put registered names in the place of the classes and functions that a config builds.

    What is not registered, or under several names, stays as it is.
    """
    scope = cfg.get("default_scope")
    for part in list(cfg.values()):
        for _, inner in nested_dicts(part):
            for key in _KEYS:
                kind = inner.get(key)
                if callable(kind) and (name := _registered_name(kind, scope)):
                    inner[key] = name


def _registered_name(kind: Any, scope: str | None) -> str | None:
    """What a config in text calls it, where ``scope`` is the default."""
    if operator := find_operator(kind):
        return operator.name
    if kind is PretrainedInit:
        # check_pretrained() may have registered another class in its place.
        return "Pretrained"
    roots = (root for root in vars(mmengine.registry).values() if isinstance(root, Registry))
    for root in roots:
        for registry in (root, *root.children.values()):
            names = [n for n, known in registry.module_dict.items() if _is(known, kind, n)]
            own = getattr(kind, "__name__", None)
            if own not in names and len(names) != 1:
                continue
            name = own if own in names else names[0]
            default = root.children.get(scope, root).module_dict
            found = default.get(name, root.module_dict.get(name))
            return name if _is(found, kind, name) else f"{registry.scope}.{name}"
    return None


def _is(known: Any, kind: Any, name: str) -> bool:
    """Whether what is registered under a name is this, or ours that has taken its place there."""
    ours = isinstance(known, type) and known.__module__.startswith(f"{_PACKAGE}.")
    took = ours and getattr(kind, "__name__", None) == name and kind in known.__mro__
    return known is kind or took
