"""Mixtures of experts, and the convolution with a kernel per image that they run on."""

import pytest
import torch

from mmlearnconv.ops import condconv2d, reference
from tests.ops.op_testing import GEOMETRY, assert_same, double, make_input


@GEOMETRY
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_equals_its_definition(geometry, chunk, monkeypatch):
    monkeypatch.setattr("mmlearnconv.ops.dynamic_kernel._CHUNK", chunk)
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    experts = torch.randn(3, out, 4 // groups, *kernel, **double, requires_grad=True)
    routing = torch.rand(2, 3, **double, requires_grad=True)

    def call(function):
        return lambda x, e, r: function(x, e, r, None, stride, padding, dilation, groups)

    assert_same(call(condconv2d), call(reference.condconv2d), (x, experts, routing))


def test_convolution_per_sample_is_an_operator_like_pytorch_s():
    """Compiled graphs call it; elsewhere PyTorch's convolution is called directly."""
    x, kernels = torch.randn(3, 4, 6, 5), torch.randn(3, 6, 2, 3, 3)
    arguments = x.requires_grad_(), kernels.requires_grad_(), [2, 1], [1, 1], [1, 2], 2
    torch.library.opcheck(torch.ops.mmlearnconv.conv2d_per_sample.default, arguments)
