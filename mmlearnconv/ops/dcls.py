"""DCLS: dilated convolution with learnable spacings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserValueError
from .autograd import differentiable, forbid_second_derivative
from .depthwise import convolve, depthwise_taps
from .dispatch import check_devices, in_full_precision, is_cpu, use_compiled
from .extension import compiled
from .geometry import geometry_of, without_groups
from .interpolation import nan_if_any, within

__all__ = ["dcls_conv2d", "dcls_kernel"]

INTERPOLATIONS = ("bilinear", "gauss", "triangle")
# Constants of the authors' package: minimum widths, and epsilon for the division by a sum.
TRIANGLE_WIDTH = 1.0
GAUSS_WIDTH = 0.27
NORM_EPS = 1e-7


def dcls_conv2d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    window: Sequence[int],
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """Dilated convolution with learnable spacings (Khalfaoui-Hassani et al. 2023).

    A convolution with the kernel of :func:`dcls_kernel`. With the compiled operations on the CPU, a
    depthwise bilinear convolution whose elements touch fewer cells than the window has
    (``4 * count < rows * columns``) multiplies only these cells.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(out, C / groups, count)``.
        positions: ``(2, out, C / groups, count)``, in cells relative to the window's centre cell.
        window: its rows and columns.
        bias: ``(out,)`` or ``None``. Default: ``None``.
        stride, padding, dilation, groups: as ``F.conv2d``, of the window.
        interpolation: ``'bilinear'``, ``'gauss'`` or ``'triangle'``. Default: ``'bilinear'``.
        width: shape and units of ``positions``; ``None`` means zero. Not used by ``'bilinear'``.
            Default: ``None``.

    Returns:
        Tensor: ``(N, out, H', W')``.

    Raises:
        ValueError: tensors on several devices, a shape that does not fit, or an unknown
            interpolation.
    """
    check_devices(input=input, weight=weight, positions=positions, width=width, bias=bias)
    _check(weight, positions, window, interpolation, width)
    geometry = geometry_of(stride, padding, dilation, groups)
    depthwise = groups == input.shape[1] == len(weight)
    sparse = 4 * weight.shape[2] < window[0] * window[1]
    # Measured to win on the CPU.
    if (
        depthwise
        and interpolation == "bilinear"
        and sparse
        and is_cpu(input)
        and use_compiled(input)
    ):
        taps = in_full_precision(dcls_taps, weight, positions, window)
        return depthwise_taps(input, *taps, window, bias, *without_groups(geometry))
    kernel = dcls_kernel(weight, positions, window, interpolation, width)
    return convolve(input, kernel, bias, *geometry)


def dcls_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """Dense kernel of a DCLS convolution, without a tensor of window times count.

    The definition is :func:`mmlearnconv.ops.reference.dcls_kernel`. The kernel is computed in at
    least float32, also under autocast, and returned in the weight's dtype. Each bilinear element
    touches ``2 ** D`` cells and is scattered into the window. The other two interpolations are
    separable: in 2D the kernel is the product of a ``(rows, count)`` and a ``(count, columns)``
    matrix. A NaN position makes all cells of its kernel NaN.

    Args:
        weight: ``(out, in / groups, count)``.
        positions: ``(D, out, in / groups, count)``, in cells relative to the window's centre cell.
        size: the window's ``D`` side lengths, in cells.
        interpolation: ``'bilinear'``, ``'gauss'`` or ``'triangle'``. Default: ``'bilinear'``.
        width: shape and units of ``positions``; ``None`` means zero. Not used by ``'bilinear'``.
            Default: ``None``.

    Returns:
        Tensor: ``(out, in / groups, *size)``.

    Raises:
        ValueError: tensors on several devices, a shape that does not fit, or an unknown
            interpolation.
    """
    check_devices(weight=weight, positions=positions, width=width)
    _check(weight, positions, size, interpolation, width)
    if interpolation != "bilinear":
        arguments = weight, positions, size, interpolation, width
        kernel = in_full_precision(_separable_kernel, *arguments)
    else:
        build = _compiled_kernel if use_compiled(weight) else _scattered_kernel
        kernel = in_full_precision(build, weight, positions, size)
    return kernel.to(weight.dtype)


def _check(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str,
    width: Tensor | None,
) -> None:
    expected = (len(size), *weight.shape)
    if weight.ndim != 3 or positions.shape != expected:
        raise UserValueError(
            f"positions: shape {tuple(positions.shape)} does not fit weight "
            f"{tuple(weight.shape)} and size {tuple(size)}; expected {expected}"
        )
    if width is not None and width.shape != expected:
        raise UserValueError(f"width: shape {tuple(width.shape)}; expected {expected}")
    if interpolation not in INTERPOLATIONS:
        raise UserValueError(f"interpolation: {interpolation!r}; allowed are {INTERPOLATIONS}")


def _scattered_kernel(weight: Tensor, positions: Tensor, size: Sequence[int]) -> Tensor:
    values, cells = dcls_taps(weight, positions, size)
    index = cells[..., 0]
    for axis in range(1, len(size)):
        index = index * size[axis] + cells[..., axis]
    kernel = values.new_zeros(*weight.shape[:2], torch.Size(size).numel())
    kernel = kernel.scatter_add(2, index, values)
    kernel = kernel + nan_if_any(weight, 2) + nan_if_any(positions, 0, 3)[0]
    return kernel.unflatten(2, tuple(size))


def dcls_taps(weight: Tensor, positions: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The ``2 ** D`` cells that each bilinear element touches, and its value on each.

    Args:
        weight, positions, size: as :func:`dcls_kernel`.

    Returns:
        tuple[Tensor, Tensor]: values ``(out, in / groups, 2 ** D * count)``, and cells ``(..., D)``
        relative to the window's first; cells outside the window are moved to its edge with value 0.
    """
    lower, parts = [], []
    for axis, length in enumerate(size):
        q = within(positions[axis] + length // 2, -2, length + 1)
        f = q.detach().floor()
        r = q - f
        lower.append(f.nan_to_num().long())
        parts.append((1 - r, r))
    values, cells = [], []
    for number in range(2 ** len(size)):
        corner = [number >> axis & 1 for axis in reversed(range(len(size)))]
        value, inside, kept = weight, [], []
        for axis, upper in enumerate(corner):
            at = lower[axis] + upper
            kept.append(at.clamp(0, size[axis] - 1))
            inside.append(kept[-1] == at)
            value = value * parts[axis][upper]
        # NaN must stay NaN instead of becoming zero.
        kept_values = torch.stack(inside).all(0) | value.detach().isnan()
        values.append(torch.where(kept_values, value, 0))
        cells.append(torch.stack(kept, -1))
    return torch.cat(values, 2), torch.cat(cells, 2)


def _separable_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str,
    width: Tensor | None,
) -> Tensor:
    profiles = _separable_profiles(positions, size, interpolation, width)
    norm = profiles[0].sum(-1)
    for profile in profiles[1:]:
        norm = norm * profile.sum(-1)
    rows = (weight / (norm + NORM_EPS))[..., None] * profiles[0]
    for profile in profiles[1:-1]:
        rows = (rows[..., None] * profile[..., None, :]).flatten(3)
    if len(profiles) == 1:
        return rows.sum(2)
    return (rows.transpose(2, 3) @ profiles[-1]).unflatten(2, tuple(size[:-1]))


def _separable_profiles(
    positions: Tensor, size: Sequence[int], interpolation: str, width: Tensor | None
) -> list[Tensor]:
    """Unnormalised response of the elements along each axis, ``(out, in / groups, count, n)``."""
    profiles = []
    for axis, cells in enumerate(size):
        s = torch.arange(cells, dtype=positions.dtype, device=positions.device)
        distance = s - (positions[axis] + cells // 2)[..., None]
        w = 0 if width is None else width[axis].abs()[..., None]
        if interpolation == "triangle":
            profiles.append((TRIANGLE_WIDTH + w - distance.abs()).relu())
        else:
            profiles.append((-0.5 * (distance / (GAUSS_WIDTH + w)) ** 2).exp())
    return profiles


def fit_weights(
    kernel: Tensor,
    positions: Tensor,
    width: Tensor,
    size: Sequence[int],
    interpolation: str,
) -> Tensor:
    """Weights of elements at given positions whose kernel is the nearest to a dense one.

    Args:
        kernel: ``(out, in / groups, *size)``.
        positions, width, size: as :func:`dcls_kernel`.
        interpolation: ``'gauss'`` or ``'triangle'``.

    Returns:
        Tensor: ``(out, in / groups, count)``, float64: the least-squares solution.
    """
    profiles = _separable_profiles(positions.double(), size, interpolation, width.double())
    profiles = [p / p.sum(-1, keepdim=True) for p in profiles]
    gram = math.prod(p @ p.mT for p in profiles)
    # Contract the kernel with every element's profile, axis by axis.
    moment = kernel.double()[:, :, None]
    for profile in profiles:
        view = (..., *(None,) * (moment.ndim - 4))
        moment = (moment * profile[view]).sum(3)
    return torch.linalg.solve(gram, moment)


def _kernel_context(ctx, inputs, output) -> None:
    *tensors, ctx.size = inputs
    ctx.save_for_backward(*tensors)


_kernel_gradients = compiled(
    "dcls_kernel_backward",
    lambda _, weight, positions, __: (
        weight.new_empty(weight.shape),
        positions.new_empty(positions.shape),
    ),
    forbid_second_derivative,
)
_compiled_kernel = compiled(
    "dcls_kernel",
    lambda weight, _, size: weight.new_empty(*weight.shape[:2], *size),
    lambda name: differentiable(
        name,
        lambda ctx, grad: (*_kernel_gradients(grad, *ctx.saved_tensors, ctx.size), None),
        _kernel_context,
    ),
)
