"""The window of a plain convolution, changed without changing the sizes of maps."""

from typing import Any

from ..errors import UserValueError
from ..layers.arguments import int_tuple


def another_window(
    window: dict[str, Any],
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...] | str,
    **_: Any,
) -> dict[str, Any]:
    """A convolution's arguments for another kernel size, dilation, or both.

    Args:
        window: the new ``kernel_size`` and ``dilation``, each one integer or one per axis; what is
            missing stays.
        kernel_size: the present one.
        dilation: the present one.
        padding: the present one; ``'same'`` and ``'valid'`` stay.

    Returns:
        dict: ``kernel_size``, ``dilation`` and ``padding``.

    Raises:
        TypeError: a value is neither an integer nor one integer per axis.
        ValueError: a value is below 1; or no padding keeps the size of maps, as from a
            kernel of 3 to one of 4.
    """
    axes = len(kernel_size)
    present = dict(kernel_size=kernel_size, dilation=dilation)
    new = {key: int_tuple(key, value, axes, 1) for key, value in (present | window).items()}
    if not isinstance(padding, str):
        was = extents(**present)
        grown = [now - before for now, before in zip(extents(**new), was, strict=True)]
        if any(g % 2 for g in grown):
            raise UserValueError(f"{window}: no padding keeps the size of maps")
        padding = tuple(p + g // 2 for p, g in zip(padding, grown, strict=True))
    return dict(new, padding=padding)


def extents(kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> list[int]:
    """From the first element of a kernel to its last, in pixels, per axis."""
    return [(size - 1) * step for size, step in zip(kernel_size, dilation, strict=True)]
