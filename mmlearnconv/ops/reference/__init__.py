"""The definition of every operation, in plain PyTorch.

Short and slow on purpose: these functions follow the papers' equations as directly as possible, run
in any float dtype, and the tests compare every faster implementation with them. No other module of
the package imports them.
"""

from typing import TYPE_CHECKING, Any

from ..._exports import exports

_names = exports(__name__, __path__)
globals().update(_names)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
