"""Taps that read nothing."""

import random

import pytest
import torch
import torch.nn.functional as F

from mmlearnconv.ops.geometry import zero_unread_taps


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_taps_that_read_nothing_are_zeroed(dims):
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    rng = random.Random(dims)
    met = 0
    for _ in range(200):
        size, kernel, stride, padding, dilation = (
            [rng.randint(*limits) for _ in range(dims)]
            for limits in ((1, 6), (1, 5), (1, 4), (0, 5), (1, 3))
        )
        geometry = stride, padding, dilation
        weight = torch.ones(1, 1, *kernel, dtype=torch.double, requires_grad=True)
        x = torch.ones(1, 1, *size, dtype=torch.double)
        try:
            y = convolution(x, weight, None, *geometry)
        except RuntimeError:
            continue
        (read,) = torch.autograd.grad(y.sum(), weight)
        kept = zero_unread_taps(weight, size, *geometry)
        assert torch.equal(kept, (read > 0).double())
        wrong = torch.full_like(weight, torch.nan)
        assert zero_unread_taps(wrong, size, *geometry).isnan().all()
        met += kept is not weight
    assert met > 20
