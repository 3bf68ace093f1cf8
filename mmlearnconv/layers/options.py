"""Options of layers, checked by name."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from .arguments import unknown


class CheckedOptions:
    """A class whose constructors refuse unknown options with the nearest that they have.

    Raises:
        TypeError: an option is unknown.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _checked(vars(cls)["__init__"])  # type: ignore[method-assign]


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    parameters = inspect.signature(init).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return init
    names = [p.name for p in parameters if p.name != "self"]

    @wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in names:
                raise TypeError(f"{type(self).__name__}: option {unknown(name, names)}")
        init(self, *args, **options)

    return checked
