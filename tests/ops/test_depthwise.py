"""Depthwise convolution against PyTorch's, and its weight gradient."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from mmlearnconv.ops import depthwise_conv2d
from mmlearnconv.ops.correlation import correlate
from mmlearnconv.ops.depthwise import DepthwiseFunction
from mmlearnconv.ops.extension import has_kernels_for
from tests.ops.op_testing import DEVICE, built


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
    upstream = torch.randn_like(output)
    for a, b in zip(
        torch.autograd.grad(output, ours, upstream),
        torch.autograd.grad(expected, exact, upstream.double()),
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
def test_gradients_of_gradients(stride, dilation, path):
    if (stride, dilation) != ((1, 1), (1, 1)) and path == "PyTorch":
        return  # Left to PyTorch.
    x = torch.randn(2, 2, 5, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(2, 1, 3, 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(2, dtype=torch.double, requires_grad=True)

    def function(x, weight, bias):
        # Our backward pass, called directly: small kernels in float64 do not use it.
        return DepthwiseFunction.apply(x, weight, bias, stride, (1, 2), dilation)

    assert gradcheck(function, (x, weight, bias))
    assert gradgradcheck(function, (x, weight, bias))


# On CUDA, and where the emulator runs CUDA's kernels.
own_kernels = pytest.mark.skipif(
    not has_kernels_for(DEVICE, "depthwise_forward"),
    reason="this device has no such kernels",
)


@own_kernels
@pytest.mark.parametrize("stride", [1, 2])
def test_second_derivatives_of_the_cuda_kernels(stride):
    tensors = [torch.randn(2, 3, 11, 9), torch.randn(3, 1, 5, 6), torch.randn(3)]
    found = []
    for convolve, dtype in ((depthwise_conv2d, torch.float), (F.conv2d, torch.double)):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        groups = (3,) if convolve is F.conv2d else ()
        output = convolve(*leaves, stride, (2, 3), 1, *groups)
        # A gradient of gradients needs what depends on them in another way than linearly.
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([*first, *second])
    for ours, exact in zip(*found, strict=True):
        scale = exact.abs().max().item()
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5 * scale)


@own_kernels
@pytest.mark.parametrize("stride", [1, 2])
def test_the_cuda_kernels_are_operators_like_pytorch_s(stride):
    x, weight = torch.randn(2, 3, 8, 7), torch.randn(3, 1, 5, 4)
    leaves = [t.requires_grad_() for t in (x, weight, torch.randn(3))]
    size = list(F.conv2d(x, weight, None, stride, 2, 1, 3).shape[2:])
    operators = torch.ops.mmlearnconv
    geometry = [stride] * 2, [2, 2]
    torch.library.opcheck(operators.depthwise_forward.default, (*leaves, size, *geometry))
    grad = torch.randn(2, 3, *size, requires_grad=True)
    torch.library.opcheck(
        operators.depthwise_input_grad.default, (grad, weight, list(x.shape[2:]), *geometry)
    )


@own_kernels
@pytest.mark.parametrize(
    ("x", "weight", "stride", "message"),
    [
        (torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 33, 5), 1, "at most 31"),
        (torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 5, 5), 3, "must be 1 or 2"),
        (torch.zeros(1, 2, 8, 8), torch.zeros(3, 1, 5, 5), 1, r"must be \(C, 1, rows"),
        (torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 5, 5).half(), 1, "of Half"),
        (torch.zeros(1, 2, 8, 8).double(), torch.zeros(2, 1, 5, 5).double(), 1, "float64"),
    ],
)
def test_what_the_cuda_kernels_refuse_is_named(x, weight, stride, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mmlearnconv.depthwise_forward(x, weight, None, [4, 4], [stride] * 2, [2, 2])


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


def weight_grad(*arguments):
    return torch.ops.mmlearnconv.depthwise_weight_grad(*arguments)


def weight_grad_cases(count):
    """Sizes that no vector divides, strides, dilations, empty batches, maps of a pixel."""
    rng = random.Random(1)
    for _ in range(count):
        size, stride, dilation, padding = (
            [rng.randint(low, high) for _ in range(2)]
            for low, high in ((1, 19), (1, 3), (1, 3), (0, 9))
        )
        least = [
            max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, size, padding, strict=True)
        ]
        shape = [n + rng.choice([0, rng.randint(0, 40)]) for n in least]
        batch, channels = rng.choice([0, 1, 2, 3]), rng.choice([1, 3, 8, 15, 16, 17, 40])
        yield (batch, channels, *shape), size, stride, padding, dilation


def weight_grad_definition(x, grad, size, stride, padding, dilation):
    """out[c, u, v] = sum over n, i, j of grad[n, c, i, j] x[n, c, i s + u d - p, j s + v d - p]."""
    columns = F.unfold(x, size, dilation, padding, stride)
    columns = columns.unflatten(1, (x.shape[1], -1))
    return torch.einsum("nckl,ncl->ck", columns, grad.flatten(2)).view(-1, 1, *size)


@built
@pytest.mark.parametrize("case", list(weight_grad_cases(80)), ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weight_gradient_equals_its_definition(case, memory_format):
    shape, size, stride, padding, dilation = case
    x = torch.randn(shape, dtype=torch.double).contiguous(memory_format=memory_format)
    weight = torch.zeros(shape[1], 1, *size, dtype=torch.double)
    geometry = (stride, padding, dilation)
    grad = torch.randn_like(F.conv2d(x, weight, None, *geometry, shape[1]))
    expected = weight_grad_definition(x, grad, size, *geometry) if shape[0] else weight
    found = weight_grad(x, grad, size, *geometry)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    single = weight_grad(x.float(), grad.float(), size, *geometry)
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4 * scale)
    assert torch.equal(single, weight_grad(x.float(), grad.float(), size, *geometry))


@built
def test_two_numbers_of_threads_give_equal_bits():
    x, grad = torch.randn(2, 40, 50, 30), torch.randn(2, 40, 50, 30)
    arguments = (x, grad, [17, 17], [1, 1], [8, 8], [1, 1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weight_grad(*arguments)
        torch.set_num_threads(2)
        assert torch.equal(one, weight_grad(*arguments))
    finally:
        torch.set_num_threads(threads)


@built
def test_weight_gradient_is_an_operator_like_pytorch_s():
    x = torch.randn(2, 3, 8, 7, dtype=torch.double, requires_grad=True)
    grad = torch.randn(2, 3, 4, 7, dtype=torch.double, requires_grad=True)
    arguments = (x, grad, [3, 5], [2, 1], [1, 4], [1, 2])
    torch.library.opcheck(torch.ops.mmlearnconv.depthwise_weight_grad.default, arguments)
    assert gradcheck(lambda x, grad: weight_grad(x, grad, *arguments[2:]), (x, grad))


@built
@pytest.mark.parametrize(
    ("x", "grad", "message"),
    [
        (torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8), r"must be \(N, C, H, W\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8), r"must be \(N, C, H, W\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 9, 8), "is not what a kernel of"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8).double(), "input is Float and grad Do"),
        (torch.zeros(2, 3, 8, 8).half(), torch.zeros(2, 3, 8, 8).half(), "neither float32 nor"),
    ],
)
def test_wrong_arguments_of_the_weight_gradient_are_named(x, grad, message):
    with pytest.raises(RuntimeError, match=message):
        weight_grad(x, grad, [3, 3], [1, 1], [1, 1], [1, 1])
