"""CoC: kernels that are convolved with their neighbours, and normalised."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserValueError
from .autograd import define, differentiable, forbid_second_derivative
from .dispatch import check_devices, in_full_precision, without_autocast

__all__ = ["associate_kernels", "normalize_filters", "orthogonalize", "standardize"]

STANDARDIZE_EPS = 1e-5


def associate_kernels(
    weight: Tensor,
    super_weight: Tensor,
    association: int,
    dilation: Sequence[int],
    skip: bool,
    norms: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Kernels convolved with their neighbours on a sheet (Convolution of Convolution).

    Each group of ``association ** 2`` kernels is tiled into a sheet,
    ``(co a a) ci kh kw -> ci co (a kh) (a kw)``; the last sheet is filled up with zero kernels.
    Each super layer convolves a sheet with the sheet's own super kernel, which is shared over
    ``ci``. Finally the sheets are cut into kernels again. Computed in at least float32, since each
    super layer adds to the rounding of those before.

    Args:
        weight: ``(out, in / groups, kH, kW)``.
        super_weight: ``(layers, sheets, rows, columns)``, odd sides.
        association: kernels on a side of a sheet.
        dilation: of the super kernels, rows and columns.
        skip: whether a super layer adds its input.
        norms: gain and bias of a layer norm after each super layer, as in the authors' released
            code, each ``(layers, sheets, association * kH, association * kW)``. The super kernels
            are then standardised first, to mean 0 and sample standard deviation 1. Default:
            ``None``, no layer norm.

    Returns:
        Tensor: as ``weight``.

    Raises:
        ValueError: tensors on several devices.
    """
    gain, mean = norms or (None, None)
    check_devices(weight=weight, super_weight=super_weight, gain=gain, mean=mean)
    arguments = weight, super_weight, gain, mean, association, dilation, skip
    return in_full_precision(_associate, *arguments).to(weight.dtype)


def _associate(
    weight: Tensor,
    super_weight: Tensor,
    gain: Tensor | None,
    mean: Tensor | None,
    association: int,
    dilation: Sequence[int],
    skip: bool,
) -> Tensor:
    out, per_group, rows, columns = weight.shape
    a, sheets = association, super_weight.shape[1]
    missing = weight.new_zeros(sheets * a * a - out, per_group, rows, columns)
    picture = torch.cat([weight, missing]).reshape(sheets, a, a, per_group, rows, columns)
    picture = picture.permute(3, 0, 1, 4, 2, 5).reshape(per_group, sheets, a * rows, a * columns)
    padding = [d * (n // 2) for d, n in zip(dilation, super_weight.shape[2:], strict=True)]
    for layer, kernel in enumerate(super_weight):
        if gain is not None:
            deviation = kernel.std((1, 2), keepdim=True) + STANDARDIZE_EPS
            kernel = (kernel - kernel.mean((1, 2), keepdim=True)) / deviation
        moved = F.conv2d(picture, kernel[:, None], None, 1, padding, tuple(dilation), sheets)
        if gain is not None and mean is not None:
            moved = F.layer_norm(moved, moved.shape[1:], gain[layer], mean[layer])
        picture = picture + moved if skip else moved
    picture = picture.reshape(per_group, sheets, a, rows, a, columns).permute(1, 2, 4, 0, 3, 5)
    return picture.reshape(-1, per_group, rows, columns)[:out]


def standardize(weight: Tensor, gain: Tensor, mean: Tensor) -> Tensor:
    """``gain * (W - E[W]) / sqrt(Var[W] + 1e-5) + mean`` per filter; both are ``(out,)``.

    Raises:
        ValueError: tensors on several devices.
    """
    check_devices(weight=weight, gain=gain, mean=mean)
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    scale = (flat.var(1, correction=0, keepdim=True) + STANDARDIZE_EPS).sqrt()
    return (gain[:, None] * centred / scale + mean[:, None]).view_as(weight)


def normalize_filters(weight: Tensor, gain: Tensor, mean: Tensor) -> Tensor:
    """A layer norm over each filter; ``gain`` and ``mean`` are ``(in / groups, kH, kW)``.

    Raises:
        ValueError: tensors on several devices.
    """
    check_devices(weight=weight, gain=gain, mean=mean)
    with without_autocast(weight):
        return F.layer_norm(weight, weight.shape[1:], gain, mean)


def orthogonalize(weight: Tensor) -> Tensor:
    """Nearest kernel whose flattened filters are orthonormal, ``(V V^T)^(-1/2) V``.

    The definition is :func:`mmlearnconv.ops.reference.orthogonalize`. Computed from the
    eigenvectors of ``V V^T`` in float64, since that product squares the condition number: filters
    are orthonormal to float32's rounding up to condition numbers of 1e6. Directions with a zero
    singular value, as of linearly dependent filters, stay zero; their unbounded derivatives are
    taken as zero. One element that is NaN or infinite makes the whole kernel NaN.

    Args:
        weight: ``(out, ...)``, ``out`` at most the product of the rest.

    Returns:
        Tensor: as ``weight``.

    Raises:
        ValueError: there are more filters than a filter has elements.
    """
    if len(weight) > weight[0].numel():
        raise UserValueError(
            f"weight: shape {tuple(weight.shape)}; {len(weight)} filters of "
            f"{weight[0].numel()} elements cannot be orthonormal"
        )
    return _polar(weight.flatten(1))[0].view_as(weight)


def _inverse(values: Tensor) -> Tensor:
    """``1 / values``, and zero where a value is zero."""
    return torch.where(values == 0, 0, 1 / values)


def _factor(filters: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """``(V V^T)^(-1/2) V`` in float64, from the singular vectors and values of V."""
    return (vectors * _inverse(values)) @ (vectors.T @ filters.double())


def _fake_polar(filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = len(filters)
    vectors = filters.new_empty((count, count), dtype=torch.double)
    return torch.empty_like(filters), vectors, vectors.new_empty(count)


def _polar_flops(filters, *_, **__) -> int:
    """Its three matrix products; finding eigenvectors has no fixed number."""
    return 6 * filters[0] ** 2 * filters[1]


@define("orthogonalize", "(Tensor filters) -> (Tensor, Tensor, Tensor)", _fake_polar, _polar_flops)
def _polar_forward(filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The orthonormal factor; left singular vectors and singular values, in float64."""
    exact = filters.double()
    product = exact @ exact.T
    # eigh raises at what is not finite: everything is NaN then.
    finite = product.isfinite().all()
    squares, vectors = torch.linalg.eigh(torch.where(finite, product, 0))
    # Squared singular values up to this are rounding errors.
    least = squares[-1:] * len(squares) * torch.finfo(squares.dtype).eps
    values = torch.where(squares <= least, 0, squares.clamp_min(0).sqrt())
    values = torch.where(finite, values, torch.nan)
    factor = _factor(filters, vectors, values)
    return factor.to(filters.dtype), vectors.contiguous(), values


@define(
    "orthogonalize_backward",
    "(Tensor grad, Tensor filters, Tensor vectors, Tensor values) -> Tensor",
    lambda grad, filters, *_: torch.empty_like(filters),
)
def _polar_backward(grad: Tensor, filters: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """``K F + H^-1 (G - G F^T F)``, where ``V = H F`` and ``H K + K H = G F^T - F G^T``."""
    # Not the factor that was returned: H^-1 would magnify its rounding.
    exact, g = _factor(filters, vectors, values), grad.double()
    along = g @ exact.T
    skew = vectors.T @ (along - along.T) @ vectors
    turned = vectors @ (skew * _inverse(values[:, None] + values)) @ vectors.T
    beyond = (vectors * _inverse(values)) @ (vectors.T @ (g - along @ exact))
    return (turned @ exact + beyond).to(grad.dtype)


_polar_gradient = forbid_second_derivative("orthogonalize_backward")
_polar = differentiable(
    "orthogonalize",
    lambda ctx, grad, *_: _polar_gradient(grad, *ctx.saved_tensors),
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output[1:]),
)
