"""Options of layers, checked by name."""

import inspect
from typing import Any

from .arguments import unknown


class CheckedOptions:
    """A class whose unknown options are refused with the nearest that it has.

    Raises:
        TypeError: an option is unknown.
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        known = inspect.signature(cls.__init__).parameters.values()
        if all(p.kind is not p.VAR_KEYWORD for p in known):
            names = [p.name for p in known if p.name != "self"]
            for name in options:
                if name not in names:
                    raise TypeError(f"{cls.__name__}: option {unknown(name, names)}")
        return super().__new__(cls)
