"""The compiled operations, where they were built; PyTorch's own do the work without them."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

__all__ = ["has_extension", "without_extension"]

_BUILD = "build them with `pip install -e . --no-build-isolation` (it needs a C++ compiler)"
_SLOWER = "PyTorch's are slower"


def has_extension() -> bool:
    """Whether the compiled operations are loaded, and not switched off for the moment."""
    return _library is not None and not _switched_off


def has_kernels_for(device: str) -> bool:
    """Whether they have kernels for a type of device, ``'cpu'`` or ``'cuda'``."""
    return has_extension() and device in _devices


@contextmanager
def without_extension() -> Iterator[None]:
    """A context in which PyTorch's own operations do the work, to compare the two."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


def compiled(
    name: str,
    fake: Callable,
    differentiate: Callable[[str], Callable] | None = None,
    flops: Callable[..., int] | None = None,
) -> Callable:
    """A compiled operator as a function.

    Args:
        name: of the operator, without its namespace.
        fake: gives its outputs' shapes and dtypes, for graphs that are compiled.
        differentiate: registers its derivative, given its name, and returns the function: see
            :mod:`mmlearnconv.ops.autograd`. Default: none has been registered.
        flops: operations for PyTorch's counter; a multiply-add is two. Default: none are counted.

    Returns:
        Callable: the operator. Where it is not there, a function that says so.
    """
    if _library is None:
        return _absent(name)
    if not hasattr(torch.ops.mmlearnconv, name):
        _leave_out(
            f"mmlearnconv's compiled operations in {_library} are older than this code (no {name})"
        )
        return _absent(name)
    torch.library.register_fake(f"mmlearnconv::{name}", fake)
    operator = getattr(torch.ops.mmlearnconv, name)
    if flops is not None:
        register_flop_formula(operator)(flops)
    return differentiate(name) if differentiate else operator


def _absent(name: str) -> Callable:
    def call(*_: Any) -> None:
        raise RuntimeError(f"mmlearnconv::{name} was not compiled: {_BUILD}")

    return call


def _leave_out(why: str) -> None:
    global _library
    _library = None
    warnings.warn(f"{why}, {_SLOWER}: {_BUILD}", stacklevel=4)


def _load() -> Path | None:
    """Load the compiled operations, or warn why not; the file that they are in."""
    if os.environ.get("MMLEARNCONV_WITHOUT_OPS") == "1":
        return None
    folder = Path(__file__).parent
    # A checkout may hold builds for several Pythons, and for the PyTorch of each.
    paths = [p for suffix in EXTENSION_SUFFIXES if (p := folder / f"_ext{suffix}").is_file()]
    if not paths:
        others = ", ".join(path.name for path in sorted(folder.glob("_ext*.so")))
        state = f"built for another Python ({others})" if others else "not built"
        _leave_out(f"mmlearnconv's compiled operations are {state}")
        return None
    try:
        torch.ops.load_library(paths[0])
    except OSError as error:
        reason = str(error).rstrip(".")
        _leave_out(f"mmlearnconv's compiled operations do not load ({reason})")
        return None
    return paths[0]


def _devices_with_kernels() -> set[str]:
    if _library is None or not hasattr(torch.ops.mmlearnconv, "depthwise_taps"):
        return set()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {k.lower() for k in ("CPU", "CUDA") if has_kernel("mmlearnconv::depthwise_taps", k)}


_switched_off = False
_library = _load()
_devices = _devices_with_kernels()
