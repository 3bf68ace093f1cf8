"""CondConv: experts."""

import torch
from torch import nn

from mmlearnconv.layers import CondConv2d


def test_experts_of_a_plain_kernel_can_part_ways():
    conv = CondConv2d(4, 4, 3, num_experts=2)
    conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
    conv(torch.randn(2, 4, 9, 9)).square().sum().backward()
    first, second = conv.routing_weight.grad
    assert (first - second).norm() > 0.01 * second.norm()
