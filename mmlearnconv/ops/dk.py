"""Deformable kernels: convolutions whose kernel is resampled from a larger one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .autocast import to_autocast_dtype
from .per_image import conv2d_per_image
from .reference import conv_output_size, deformable_im2col, dk_coefficients, im2col

# Numbers that one tile's resampled input may take: 16 MB in float32.
_TILE = 2**22


def dk_conv2d(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    data_offsets: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel is resampled from a larger kernel space.

    The definition, with the arguments' shapes, is :func:`mmlearnconv.ops.reference.dk_conv2d`.

    Offsets of one place an image give each image one kernel and an ordinary convolution. Otherwise
    sampling is linear in the kernel space, so the input is resampled instead, for each scope cell
    k': ``P[c, k', j] = sum_k B(k_j, k') I[c, j + k]``, and multiplied with the kernel space; some
    rows of the output at a time, since ``P`` is scope squared times the input.
    """
    if offsets.shape[2:] == (1, 1) and data_offsets is None:
        coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])[..., 0, 0]

        def kernels(coefficients: Tensor) -> Tensor:
            built = torch.einsum("ocs,nks->nock", weight.flatten(2), coefficients)
            return built.unflatten(3, tuple(kernel_size))

        numel = weight.shape[0] * weight.shape[1] * coefficients.shape[1]
        return conv2d_per_image(
            input, coefficients, kernels, numel, stride, padding, dilation, groups
        )
    input, weight = to_autocast_dtype(input, weight)
    output_size = conv_output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    offsets = offsets.expand(-1, -1, *output_size)
    if data_offsets is None:
        input = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))

    def tile(input, weight, offsets, data_offsets, first_row):
        """Output rows from ``first_row`` on, as many as there are offsets."""
        if data_offsets is None:
            begin = first_row * stride[0]
            length = (offsets.shape[2] - 1) * stride[0] + dilation[0] * (kernel_size[0] - 1) + 1
            rows = input[:, :, begin : begin + length]
            columns = im2col(rows, kernel_size, stride, (0, 0), dilation)
        else:
            # The tile's first row is row 0 of its own offsets.
            above = padding[0] - first_row * stride[0]
            columns = deformable_im2col(
                input, data_offsets, kernel_size, stride, (above, padding[1]), dilation
            ).to(input.dtype)
        coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])
        return _multiply(columns, coefficients, weight, groups)

    per_row = input.shape[0] * input.shape[1] * weight[0, 0].numel() * output_size[1]
    step = max(1, _TILE // max(1, per_row))
    outputs = []
    for row in range(0, output_size[0], step):
        arguments = (
            input,
            weight,
            offsets[:, :, row : row + step],
            None if data_offsets is None else data_offsets[:, :, row : row + step],
            row,
        )
        if step < output_size[0] and torch.is_grad_enabled():
            outputs.append(checkpoint(tile, *arguments, use_reentrant=False))
        else:
            outputs.append(tile(*arguments))
    return torch.cat(outputs, 2)


def _multiply(columns: Tensor, coefficients: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Resample ``(N, C, k, h, w)`` by ``(N, k, s, h, w)``, multiply with ``(out, C / g, s)``."""
    batch, channels, _, height, width = columns.shape
    coefficients = coefficients.to(columns.dtype)
    # One small product a location: (s, k) by (k, C).
    resampled = coefficients.permute(0, 3, 4, 2, 1).flatten(0, 2) @ columns.permute(
        0, 3, 4, 2, 1
    ).flatten(0, 2)
    flat = weight.flatten(2)
    if groups == channels == len(weight):
        output = (resampled * flat[:, 0].T).sum(1)
    else:
        # (g, locations, s C / g) by (g, s C / g, out / g)
        resampled = resampled.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).flatten(2)
        flat = flat.unflatten(0, (groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)
        output = (resampled @ flat).permute(1, 0, 2).flatten(1)
    return output.view(batch, height, width, len(weight)).permute(0, 3, 1, 2)
