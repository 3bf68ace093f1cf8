import random

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from mmlearnconv.ops import depthwise_conv2d, is_compiled
from mmlearnconv.ops.depthwise import _DepthwiseConv2d, correlate


@pytest.fixture(params=["compiled", "pytorch"])
def path(request, monkeypatch):
    """With the compiled operations, and as it is without them."""
    if request.param == "pytorch":
        monkeypatch.setattr("mmlearnconv.ops.depthwise.is_compiled", lambda: False)
        monkeypatch.setattr("mmlearnconv.ops.depthwise.has_kernels", lambda _: False)
    elif not is_compiled():
        pytest.skip("the compiled operations are not built")


def sweep(count):
    rng = random.Random(0)
    while count:
        size = rng.choice([1, 3, 7, 11, 12, 13, 15, 17, 21]), rng.choice([1, 5, 11, 14, 15, 17])
        case = dict(
            size=size,
            channels=rng.choice([1, 3, 16, 17]),
            batch=rng.choice([0, 1, 3]),
            shape=(rng.randint(1, 40), rng.randint(1, 40)),
            stride=rng.choice([(1, 1), (1, 1), (2, 2), (1, 2)]),
            padding=tuple(rng.choice([k // 2, 0, k - 1, k + 2]) for k in size),
            dilation=rng.choice([(1, 1), (1, 1), (2, 2)]),
            bias=rng.random() < 0.5,
        )
        reach = [d * (k - 1) + 1 for d, k in zip(case["dilation"], size, strict=True)]
        sides = [n + 2 * p for n, p in zip(case["shape"], case["padding"], strict=True)]
        if all(r <= s for r, s in zip(reach, sides, strict=True)):
            count -= 1
            yield case


@pytest.mark.parametrize("case", list(sweep(60)), ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_conv2d(case, memory_format, path):
    channels = case["channels"]
    input = torch.randn(case["batch"], channels, *case["shape"])
    input = input.contiguous(memory_format=memory_format)
    tensors = [input, torch.randn(channels, 1, *case["size"])]
    tensors += [torch.randn(channels)] if case["bias"] else []
    ours = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    geometry = case["stride"], case["padding"], case["dilation"]

    def pad(tensors):
        return tensors if case["bias"] else [*tensors, None]

    output = depthwise_conv2d(*pad(ours), *geometry)
    expected = F.conv2d(*pad(exact), *geometry, channels)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    plain = F.conv2d(*pad(tensors), *geometry, channels)
    assert output.is_contiguous() or not plain.is_contiguous()
    seen = torch.randn_like(output)
    for a, b in zip(
        torch.autograd.grad(output, ours, seen),
        torch.autograd.grad(expected, exact, seen.double()),
        strict=True,
    ):
        scale = b.abs().max().item() if b.numel() else 1
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * max(scale, 1))


def test_memory_format_is_kept():
    weight = torch.randn(8, 1, 17, 17)
    x = torch.randn(2, 8, 20, 20)
    assert depthwise_conv2d(x, weight, padding=(8, 8)).is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    y = depthwise_conv2d(x, weight, padding=(8, 8))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()


@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2)])
def test_gradients_of_gradients(stride, dilation, path, request):
    if (stride, dilation) != ((1, 1), (1, 1)) and request.node.callspec.params["path"] == "pytorch":
        pytest.skip("left to PyTorch")
    x = torch.randn(2, 2, 5, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(2, 1, 3, 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(2, dtype=torch.double, requires_grad=True)

    def function(x, weight, bias):
        return _DepthwiseConv2d.apply(x, weight, bias, stride, (1, 2), dilation)

    assert gradcheck(function, (x, weight, bias))
    assert gradgradcheck(function, (x, weight, bias))


def test_correlation_does_not_wrap_around():
    # A map whose padded length needs no rounding up would show it.
    x, grad = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    x[..., 0, 0] = grad[..., 15, 15] = 1
    lags = correlate(x, grad, (31, 31), (15, 15))
    expected = torch.zeros(1, 1, 31, 31)
    expected[..., 0, 0] = 1
    torch.testing.assert_close(lags, expected)


def test_autocast_and_its_gradients():
    x = torch.randn(1, 4, 20, 20, requires_grad=True)
    weight = torch.randn(4, 1, 17, 17, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise_conv2d(x, weight, padding=(8, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    expected = F.conv2d(x, weight, padding=8, groups=4)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.5)
