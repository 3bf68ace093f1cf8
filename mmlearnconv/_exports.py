"""Collects what a package exports from its modules, so that a new module is found by itself."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def exports(package: str, path: list[str]) -> dict[str, Any]:
    """All that the modules of a package name in their ``__all__``.

    Args:
        package: its name.
        path: its ``__path__``.
    """
    found: dict[str, Any] = {}
    for info in iter_modules(path):
        if info.name.startswith("_"):
            continue
        module = import_module(f"{package}.{info.name}")
        found |= {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return found
