"""Options of layers, checked by name."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from ..errors import UserTypeError
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
        refuse_unknown(type(self).__name__, options, names)
        init(self, *args, **options)

    return checked


def refuse_unknown(layer: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Name the first option that a layer does not have, and the nearest that it has.

    Raises:
        TypeError: an option is unknown.
    """
    known = list(known)
    for name in options:
        if name not in known:
            raise UserTypeError(f"{layer}: option {unknown(name, known)}")
