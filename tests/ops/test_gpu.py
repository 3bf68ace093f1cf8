"""What only a GPU shows: graphs, streams, more elements than 32 bits count (benchmarks/gpu.sh)."""

import pytest
import torch
import torch.nn.functional as F

from mmlearnconv import ops
from tests.ops.op_testing import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="MMLEARNCONV_TEST_DEVICE is not cuda")


def depthwise():
    x, weight = torch.randn(2, 8, 20, 24), torch.randn(8, 1, 7, 7)
    return lambda *tensors: ops.depthwise_conv2d(*tensors, padding=3), [x, weight]


def dcls():
    tensors = [torch.randn(2, 8, 20, 24), torch.randn(8, 1, 5), torch.randn(2, 8, 1, 5)]
    return lambda *tensors: ops.dcls_conv2d(*tensors, (7, 7), padding=3, groups=8), tensors


def dk():
    tensors = [torch.randn(2, 8, 20, 24), torch.randn(8, 8, 4, 4), torch.randn(2, 18, 20, 24)]
    return lambda *tensors: ops.dk_conv2d(*tensors, 3, padding=1), tensors


def dke():
    tensors = [torch.randn(2, 8, 20, 24), torch.randn(6, 8, 9), torch.randn(8, 9, 2).clamp(-1, 1)]
    return lambda *tensors: ops.dke_conv2d(*tensors, (7, 7), padding=3), tensors


def drconv():
    tensors = [torch.randn(2, 8, 20, 24), torch.randn(2, 4, 20, 24), torch.randn(2, 4, 3, 3)]
    tensors += [torch.randn(4, 6, 8), torch.randn(4, 6, 8)]
    return lambda *tensors: ops.drconv2d_factorised(*tensors, padding=1), tensors


OPERATIONS = pytest.mark.parametrize("make", [depthwise, dcls, dk, dke, drconv])


def step(function, tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    return [output, *torch.autograd.grad(output.square().sum(), leaves)]


def assert_all_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


@OPERATIONS
def test_a_graph_replays_with_other_data(make):
    """Nothing waits for the GPU, and nothing depends on values read on the host."""
    function, tensors = make()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step(function, tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(function, tensors)
    for tensor in tensors:
        tensor.copy_(torch.randn_like(tensor).clamp(-1, 1))
    graph.replay()
    assert_all_close(captured, step(function, tensors))


@OPERATIONS
def test_work_goes_to_the_current_stream(make):
    function, tensors = make()
    expected = step(function, tensors)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # The data arrive late on this stream; a kernel on another one would not wait for them.
        late = [torch.zeros_like(t) for t in tensors]
        torch.cuda._sleep(10**8)
        for target, source in zip(late, tensors, strict=True):
            target.copy_(source)
        found = step(function, late)
    side.synchronize()
    assert_all_close(found, expected)


@OPERATIONS
def test_inductor_gives_the_same(make):
    function, tensors = make()
    assert_all_close(step(torch.compile(function), tensors), step(function, tensors))


def test_more_elements_than_32_bits_count():
    """4.3 GB of input; the last image is the first with a large offset."""
    x = torch.zeros(2**11 + 2, 2**10, 32, 32, dtype=torch.float16)
    x[-1].normal_()
    weight = torch.randn(2**10, 1, 5, 5, dtype=torch.float16)
    assert x.numel() > 2**31
    found = ops.depthwise_conv2d(x, weight, padding=2)[-1]
    expected = F.conv2d(x[-1:].float(), weight.float(), padding=2, groups=2**10)[0]
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)
