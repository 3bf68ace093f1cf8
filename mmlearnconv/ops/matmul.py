"""Matrix products of tall matrices of rows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import is_cpu


def matmul_rows(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix.T`` for ``(locations, in)`` and ``(out, in)``.

    On the CPU it is computed as a 1x1 convolution of a channels_last map with one row, except in
    float64: oneDNN, which runs convolutions, is vectorised on the CPUs of all vendors; MKL, which
    runs matrix products, is not.
    """
    if not is_cpu(rows) or rows.dtype == torch.float64 or rows.numel() == 0:
        return rows @ matrix.T
    return F.conv2d(_as_map(rows), matrix[:, :, None, None])[0, :, 0].T


def matmul_rows_backward(grad: Tensor, rows: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`matmul_rows`: of the rows, and of the matrix."""
    if not is_cpu(rows) or rows.dtype == torch.float64 or rows.numel() == 0:
        return grad @ matrix, grad.T @ rows
    grad_rows, grad_matrix, _ = torch.ops.aten.convolution_backward(
        *(_as_map(grad), _as_map(rows), matrix[:, :, None, None], None),
        *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]),
    )
    return grad_rows[0, :, 0].T, grad_matrix[:, :, 0, 0]


def _as_map(rows: Tensor) -> Tensor:
    """``(1, in, 1, locations)``, channels_last."""
    return rows.contiguous()[None, None].permute(0, 3, 1, 2)
