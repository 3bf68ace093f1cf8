"""Offsets' convolution: float32 from a half map, of which no float32 copy stays."""

import pytest
import torch
import torch.nn.functional as F

from mmlearnconv.ops.full_precision import conv2d_in_full_precision

GEOMETRY = (2, 1), (1, 2), (1, 2)
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def tensors(dtype, batch=3):
    shapes = (batch, 4, 9, 8), (5, 4, 3, 3), (5,)
    x, weight, bias = (torch.randn(shape) for shape in shapes)
    return x.to(dtype), weight, bias


@HALVES
@pytest.mark.parametrize("tile", [1, 2**23], ids=["image by image", "whole"])
@pytest.mark.parametrize("batch", [0, 3])
def test_equals_a_convolution_in_float32_and_its_derivatives(dtype, tile, batch, monkeypatch):
    monkeypatch.setattr("mmlearnconv.ops.full_precision._TILE", tile)

    def run(function, *leaves):
        output = function(*leaves, *GEOMETRY)
        first = torch.autograd.grad(output.square().sum() / 100, leaves, create_graph=True)
        total = sum(g.float().square().sum() for g in first) / 100
        return output, *first, *torch.autograd.grad(total, leaves)

    leaves = [t.requires_grad_() for t in tensors(dtype, batch)]
    found = run(conv2d_in_full_precision, *leaves)
    expected = run(lambda x, *rest: F.conv2d(x.float(), *rest), *leaves)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        # The map's gradient is rounded to half, before it is squared.
        part = 2e-2 if ours.dtype == dtype or dtype == torch.bfloat16 else 2e-3
        scale = theirs.abs().max().item() if theirs.numel() else 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=part * scale)
