"""One file per convolution; each module lists in ``__all__`` what the package exports."""

from typing import TYPE_CHECKING, Any

from .._exports import exports

_names = exports(__name__, __path__)
globals().update(_names)
__all__ = sorted(_names)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
