"""Correlation of maps with an FFT."""

import torch
from torch import Tensor

from .dispatch import accumulate_dtype


def correlate(
    input: Tensor, grad: Tensor, size: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Weight gradient of a unit-stride depthwise convolution, by the correlation theorem.

    ``out[c, 0, u, v] = sum_nij input[n, c, i + u - p_y, j + v - p_x] * grad[n, c, i, j]``.
    """
    dtype = accumulate_dtype(input.dtype)
    # Long enough that no lag of the kernel wraps around onto data, and to hold them all.
    lengths = [
        _fast_length(max(max(n, m) + max(p, k - 1 - p), k))
        for n, m, k, p in zip(input.shape[2:], grad.shape[2:], size, padding, strict=True)
    ]
    spectrum = torch.fft.rfft2(input.to(dtype), s=lengths)
    spectrum = (spectrum * torch.fft.rfft2(grad.to(dtype), s=lengths).conj()).sum(0)
    lags = torch.fft.irfft2(spectrum, s=lengths)
    lags = lags.roll(padding, (1, 2))[:, None, : size[0], : size[1]]
    return lags.to(input.dtype).contiguous()


def _fast_length(n: int) -> int:
    """The smallest integer of at least ``n`` with no prime factor above 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
