"""Loads the compiled operations, if they were built; otherwise PyTorch's own are used."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

__all__ = ["has_extension", "without_extension"]

_BUILD = "build them with `pip install -e . --no-build-isolation` (it needs a C++ compiler)"
_SLOWER = "so PyTorch's slower ones are used"


def has_extension() -> bool:
    """Whether the compiled operations are loaded, and not switched off for the moment."""
    return _library is not None and not _switched_off


def has_kernels_for(device: str, name: str = "depthwise_taps") -> bool:
    """Whether a compiled operator has a kernel for a type of device, ``'cpu'`` or ``'cuda'``.

    Args:
        device: type of the device.
        name: name of the operator, without the namespace. Default: one that every build has for
            each device that it was built for.
    """
    return has_extension() and (name, device.upper()) in _kernels


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
        name: name of the operator, without the namespace.
        fake: returns empty outputs of the right shapes and dtypes, for torch.compile.
        differentiate: takes the operator's name, registers its derivative and returns it as a
            function: see :mod:`mmlearnconv.ops.autograd`. Default: ``None``, no derivative.
        flops: formula for PyTorch's FLOP counter; a multiply-add counts as two. Default: ``None``,
            not counted.

    Returns:
        Callable: the operator. If it was not built, a function that raises ``RuntimeError``.
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
    """Load the compiled operations and return their file; otherwise warn why, and return None."""
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


@cache
def warn_if_not_built_for_cuda() -> None:
    """Warn, once, that the compiled operations were built without CUDA; to be asked on a GPU."""
    if _library is not None and ("depthwise_taps", "CUDA") not in _kernels:
        warnings.warn(
            f"mmlearnconv's compiled operations in {_library} were built without CUDA, {_SLOWER} "
            "on the GPU: build them with `FORCE_CUDA=1 pip install -e . --no-build-isolation` (it "
            "needs nvcc)",
            stacklevel=2,
        )


def _find_kernels() -> set[tuple[str, str]]:
    """Operators and devices for which there are kernels; compiled graphs cannot ask PyTorch."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        (name, key)
        for name in (
            "depthwise_taps",
            "depthwise_forward",
            "dke_taps",
            "drconv_sort",
            "drconv_gather",
        )
        for key in ("CPU", "CUDA")
        if _library is not None
        and hasattr(torch.ops.mmlearnconv, name)
        and has_kernel(f"mmlearnconv::{name}", key)
    }


_switched_off = False
_library = _load()
_kernels = _find_kernels()
