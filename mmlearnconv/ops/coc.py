"""Kernels with orthonormal filters."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .autograd import differentiable, once


def orthogonalize(weight: Tensor) -> Tensor:
    """Nearest kernel whose flattened filters are orthonormal, ``(V V^T)^(-1/2) V``.

    The definition is :func:`mmlearnconv.ops.reference.orthogonalize`. Computed from the
    eigenvectors of ``V V^T`` in float64, since that product squares the condition number: filters
    are orthonormal to float32's rounding up to condition numbers of 1e6. Directions in which
    linearly dependent filters have nothing stay zero, without a gradient.

    Args:
        weight: ``(out, ...)``, ``out`` at most the product of the rest.

    Returns:
        Tensor: as ``weight``.

    Raises:
        ValueError: more filters than a filter has numbers.
    """
    if len(weight) > weight[0].numel():
        raise ValueError(
            f"weight: shape {tuple(weight.shape)}; {len(weight)} filters of "
            f"{weight[0].numel()} numbers cannot be orthonormal"
        )
    return _polar(weight.flatten(1))[0].view_as(weight)


@torch.library.custom_op(
    "mmlearnconv::orthogonalize",
    mutates_args=(),
    schema="(Tensor filters) -> (Tensor, Tensor, Tensor)",
)
def _polar_forward(filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The orthonormal factor; left singular vectors and singular values, in float64."""
    exact = filters.double()
    squares, vectors = torch.linalg.eigh(exact @ exact.T)
    # Below this they are rounding.
    least = squares[-1:] * len(squares) * torch.finfo(squares.dtype).eps
    values = torch.where(squares <= least, 0, squares.clamp_min(0).sqrt())
    factor = (vectors * _inverse(values)) @ (vectors.T @ exact)
    return factor.to(filters.dtype), vectors.contiguous(), values


@torch.library.custom_op(
    "mmlearnconv::orthogonalize_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor factor, Tensor vectors, Tensor values) -> Tensor",
)
def _polar_backward(grad: Tensor, factor: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """``K F + H^-1 (G - G F^T F)``, where ``V = H F`` and ``H K + K H = G F^T - F G^T``."""
    exact, g = factor.double(), grad.double()
    along = g @ exact.T
    skew = vectors.T @ (along - along.T) @ vectors
    turned = vectors @ (skew * _inverse(values[:, None] + values)) @ vectors.T
    beyond = (vectors * _inverse(values)) @ (vectors.T @ (g - along @ exact))
    return (turned @ exact + beyond).to(grad.dtype)


def _inverse(values: Tensor) -> Tensor:
    """``1 / values``, zero where they are."""
    return torch.where(values == 0, 0, 1 / values)


@_polar_forward.register_fake
def _(filters):
    count = len(filters)
    vectors = filters.new_empty((count, count), dtype=torch.double)
    return torch.empty_like(filters), vectors, vectors.new_empty(count)


@register_flop_formula(torch.ops.mmlearnconv.orthogonalize)
def _polar_flops(filters, *_, **__) -> int:
    """Its three matrix products; finding eigenvectors has no fixed number."""
    return 6 * filters[0] ** 2 * filters[1]


_polar_backward.register_fake(lambda grad, factor, *_: torch.empty_like(factor))
_polar_gradient = once("orthogonalize_backward")
_polar = differentiable(
    "orthogonalize",
    lambda ctx, grad, *_: _polar_gradient(grad, *ctx.saved_tensors),
    lambda ctx, inputs, output: ctx.save_for_backward(*output),
)
