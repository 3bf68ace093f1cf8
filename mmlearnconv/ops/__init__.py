"""Stateless operations on tensors, one function per operator; each selects its implementation.

The package exports what its modules list in ``__all__``. ``mmlearnconv.ops.reference`` holds the
definitions, with which the tests compare the operations.
"""

from typing import TYPE_CHECKING, Any

from .._exports import exports

_names = exports(__name__, __path__)
globals().update(_names)
__all__ = sorted(_names)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
