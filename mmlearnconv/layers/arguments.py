"""Argument checks: each returns the value, or raises an error that names argument and value."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from torch import Tensor

from ..errors import UserTypeError, UserValueError

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def int_tuple(name: str, value: int | Iterable[int], length: int, minimum: int) -> tuple[int, ...]:
    """``value`` as ``length`` integers; a single integer is repeated.

    Raises:
        TypeError: neither an integer nor ``length`` integers.
        ValueError: a number below ``minimum``.
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * length
    if isinstance(value, str) or len(values) != length or not all(map(_is_integer, values)):
        raise UserTypeError(f"{name}: {value!r} is neither an integer nor {length} integers")
    if min(values) < minimum:
        raise UserValueError(f"{name}: {value!r}; must be at least {minimum}")
    return tuple(int(v) for v in values)


def positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is a positive integer.

    Raises:
        TypeError: not an integer.
        ValueError: less than 1.
    """
    if not _is_integer(value):
        raise UserTypeError(f"{name}: {value!r} is not an integer")
    if value < 1:
        raise UserValueError(f"{name}: {value!r}; must be at least 1")
    return int(value)


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        ValueError: not one of ``allowed``.
    """
    if value not in allowed:
        raise UserValueError(f"{name}: {value!r}; allowed are {tuple(allowed)}")
    return value


def conv_padding(
    padding: int | Iterable[int] | str, length: int, stride: tuple[int, ...]
) -> tuple[int, ...] | str:
    """``padding`` as ``nn.Conv2d`` takes it: a tuple, ``'same'`` or ``'valid'``.

    Raises:
        TypeError: neither an integer, ``length`` integers nor a string.
        ValueError: another string, ``'same'`` with a stride, or a negative number.
    """
    if not isinstance(padding, str):
        return int_tuple("padding", padding, length, 0)
    if padding not in ("same", "valid"):
        raise UserValueError(f"padding: {padding!r}; as a string it must be 'same' or 'valid'")
    if padding == "same" and max(stride) > 1:
        raise UserValueError(f"padding: 'same' needs stride 1, not {stride}")
    return padding


def greater_than(name: str, value: float, least: float) -> float:
    """``value`` as a float.

    Raises:
        ValueError: ``least`` or less, or not a number.
    """
    if not value > least:
        raise UserValueError(f"{name}: {value!r}; must be greater than {least:.3g}")
    return float(value)


def check_map(layer: str, input: Tensor, spatial_dims: int) -> None:
    """Refuse what no convolution of this package takes.

    Raises:
        TypeError: the input is not floating point.
        ValueError: it has no batch dimension, or a wrong number of dimensions, or is quantised.
    """
    if input.ndim != spatial_dims + 2:
        raise UserValueError(
            f"{layer}: the input has shape {tuple(input.shape)}; it must have {spatial_dims + 2} "
            f"dimensions, batch, channels and {spatial_dims} more"
        )
    if input.is_quantized:
        raise UserValueError(
            f"{layer}: the input is quantised, which is not supported; fold the model first, and "
            "quantise the plain convolutions"
        )
    if not input.is_floating_point():
        raise UserTypeError(
            f"{layer}: the input has dtype {input.dtype}; it must be floating point"
        )


def unknown(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not among the known ones, with the nearest of them."""
    known = list(known)
    near = get_close_matches(name, known, 1, 0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{name!r} is unknown{meant} allowed are {', '.join(known)}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
