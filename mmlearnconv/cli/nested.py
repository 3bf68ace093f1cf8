"""Walking through the dicts of a config."""

from collections.abc import Iterator
from typing import Any


def nested_dicts(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict in a value of a config, itself first, with its dotted path.

    What it yields may be changed before the next one is asked for.
    """
    items: Any = ()
    if isinstance(value, dict):
        yield path, value
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, inner in items:
        yield from nested_dicts(inner, f"{path}.{key}")
