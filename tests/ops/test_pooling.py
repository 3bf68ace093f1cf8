import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from mmlearnconv.ops.pooling import adaptive_avg_pool2d, averages


@pytest.mark.parametrize(("whole", "parts"), [(6, 3), (7, 3), (2, 3), (1, 1), (50, 7)])
def test_averages_by_hand(whole, parts):
    x = torch.arange(whole, dtype=torch.double) ** 2
    for i, value in enumerate(averages(whole, parts, x) @ x):
        begin, end = i * whole // parts, -(-(i + 1) * whole // parts)
        assert value == pytest.approx(sum(float(x[j]) for j in range(begin, end)) / (end - begin))


@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 5), (9, 4)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_pytorch_s(size, memory_format):
    x = torch.randn(2, 3, 7, 8, dtype=torch.double).contiguous(memory_format=memory_format)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    output, expected = adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(output, ours, upstream)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, theirs, upstream)[0])
    assert grad.stride() == x.stride()
    assert gradcheck(lambda t: adaptive_avg_pool2d(t, size), ours)
    assert gradgradcheck(lambda t: adaptive_avg_pool2d(t, size), ours)


def test_the_gradient_calls_nothing_without_a_deterministic_form():
    """PyTorch refuses its own adaptive pooling's gradient on CUDA in deterministic mode."""
    x = torch.randn(1, 2, 7, 8, requires_grad=True)
    with torch.profiler.profile() as profile:
        adaptive_avg_pool2d(x, (3, 3)).sum().backward()
    called = {event.name for event in profile.events()}
    assert not any("adaptive_avg_pool2d_backward" in name for name in called)
