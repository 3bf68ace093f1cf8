"""Taking over the weights of plain convolutions: a record of each load, and its log line."""

import logging
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.model import weight_init
from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import LearnableConv

__all__ = ["report_takeovers", "takeover_report"]


class Takeover:
    """The layers that one load set from plain weights, and their errors. Holds weak references."""

    def __init__(self) -> None:
        # Weights of the layers that were set, for parameters that several layers share.
        self.weights: MutableMapping[LearnableConv, Tensor] = weakref.WeakKeyDictionary()
        self.errors: MutableMapping[LearnableConv, float] = weakref.WeakKeyDictionary()

    def load(self, layer: "LearnableConv", weight: Tensor) -> "list[LearnableConv]":
        """Have a layer take over a plain convolution's weight; return the layers that changed.

        Raises:
            ValueError: the layer cannot compute what a plain convolution does.
        """
        self.weights[layer] = weight.detach().to(next(layer.parameters()))
        changes = layer.load_conv_weight_(self.weights[layer])
        self.errors.update(changes)
        return [changed for changed, _ in changes]

    def report(self) -> None:
        """Log, in one line, how many layers were set, and how well; then forget them."""
        errors = dict(self.errors)
        self.weights.clear()
        self.errors.clear()
        for layer in errors:
            _unreported.pop(layer, None)
        if errors:
            kinds = ", ".join(sorted({type(layer).__name__ for layer in errors}))
            print_log(
                f"{len(errors)} {kinds} layers set from plain convolution weights; "
                f"largest relative error of a kernel {max(errors.values()):.1e}",
                logger="current",
                level=logging.INFO,
            )


@contextmanager
def takeover_report() -> Iterator[Takeover]:
    """A context that counts all loads of plain weights as one, and reports it at its end."""
    global _explicit
    before, _explicit = _explicit, Takeover()
    try:
        yield _explicit
    finally:
        record, _explicit = _explicit, before
        record.report()


def _current_takeover(token: Any) -> Takeover:
    """The record of the load in progress: that of the context :func:`takeover_report`, if any.

    Otherwise it is that of the current call of ``load_state_dict``. PyTorch tells a layer that it
    is being loaded, but not when the whole model has been; so :func:`report_takeovers` reports the
    load, or else the first of its layers that runs.

    Args:
        token: the call's list of errors, the one object that all layers of the call share.
    """
    global _last_call
    if _explicit is not None:
        return _explicit
    record = _last_call[1]() if _last_call[0] is token else None
    if record is None:
        report_takeovers()
        record = Takeover()
        _last_call = token, weakref.ref(record)
    return record


def load_plain_weight(layer: "LearnableConv", weight: Tensor, token: Any) -> None:
    """:meth:`Takeover.load` on the record of the load in progress."""
    record = _current_takeover(token)
    changed = record.load(layer, weight)
    if record is not _explicit:
        _unreported.update(dict.fromkeys(changed, record))


def plain_weight_of(layer: "LearnableConv") -> Tensor | None:
    """The plain weight that the load in progress gave to ``layer``, if any."""
    records = [_explicit, _last_call[1]()]
    return next((r.weights[layer] for r in records if r is not None and layer in r.weights), None)


def report_takeovers() -> None:
    """Report the loads of plain weights that were not reported yet; called by a Runner's hook."""
    for record in {id(record): record for record in _unreported.values()}.values():
        record.report()


def report_takeover_of(layer: "LearnableConv") -> None:
    """Report the load that set a layer, unless that was done; called when the layer runs."""
    if torch.compiler.is_compiling() or not _unreported:
        return
    if (record := _unreported.get(layer)) is not None:
        record.report()


def relative_error(kernel: Tensor, plain: Tensor) -> float:
    """``|kernel - plain| / |plain|``, zero where the plain kernel is."""
    norm = plain.norm()
    return ((kernel - plain).norm() / norm).item() if norm > 0 else 0.0


_explicit: Takeover | None = None
# The list of errors of the last call of ``load_state_dict``, and its record.
_last_call: tuple[Any, Any] = (None, lambda: None)
_unreported: MutableMapping["LearnableConv", Takeover] = weakref.WeakKeyDictionary()


def is_initializer(fn: Callable[[nn.Module], None]) -> bool:
    """Whether ``fn`` is what an initialiser of mmengine applies to every module."""
    own = getattr(fn, "__module__", None) == weight_init.__name__
    return own and fn.__qualname__.endswith("Init.__call__.<locals>.init")
