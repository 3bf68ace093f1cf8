"""Stateless operations on tensors, a function per operator; each decides how it runs by itself.

Each module says in ``__all__`` what it gives to the package. ``mmlearnconv.ops.reference`` holds
the definitions, which the tests compare with.
"""

from typing import TYPE_CHECKING, Any

from .._exports import exports

_names = exports(__name__, __path__)
globals().update(_names)
__all__ = sorted(_names)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
