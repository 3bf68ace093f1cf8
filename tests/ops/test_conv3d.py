"""Three-dimensional convolutions on a CPU, which do not go through PyTorch's own.

The geometries here are harmless to it: that the other way is taken is tested, not what it avoids.
"""

import pytest
import torch
import torch.nn.functional as F

from mmlearnconv.layers import DCLSConv3d
from mmlearnconv.ops.conv3d import conv3d_by_slices
from mmlearnconv.ops.depthwise import convolve

# Channels, outputs, groups, kernel, stride, padding and dilation.
GEOMETRIES = [
    (4, 6, 1, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    (4, 6, 2, (1, 3, 5), (1, 2, 1), (0, 1, 2), (1, 1, 1)),
    (4, 4, 4, (5, 3, 3), (1, 1, 2), (2, 1, 1), (1, 2, 1)),
    (3, 2, 1, (2, 4, 1), (2, 1, 1), (0, 1, 0), (3, 1, 2)),
]


def tensors(geometry, dtype=torch.double):
    channels, outputs, groups, kernel, *_ = geometry
    input = torch.randn(2, channels, 7, 8, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(outputs, channels // groups, *kernel, dtype=dtype, requires_grad=True)
    return input, weight, torch.randn(outputs, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_slices_are_the_convolution(geometry):
    """In float64, with both derivatives of both orders."""
    given = tensors(geometry)
    *_, stride, padding, dilation = geometry
    arguments = stride, padding, dilation, geometry[2]
    outputs, gradients, seconds = [], [], []
    for function in (F.conv3d, lambda *of: conv3d_by_slices(F.conv2d, *of)):
        output = function(*given, *arguments)
        first = torch.autograd.grad(output.sin().sum(), given, create_graph=True)
        outputs.append(output)
        gradients.append(first)
        seconds.append(torch.autograd.grad(sum(g.cos().sum() for g in first), given))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*seconds)


@pytest.fixture
def without_conv3d(monkeypatch):
    def refuse(input, *_):
        assert input.dtype == torch.double, "F.conv3d was called"
        return conv3d(input, *_)

    conv3d = F.conv3d
    monkeypatch.setattr(F, "conv3d", refuse)


@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16, torch.half])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_other_dtype_is_guarded_and_right(geometry, dtype, without_conv3d):
    exact = tensors(geometry)
    *_, stride, padding, dilation = geometry
    given = [t.detach().to(dtype).requires_grad_() for t in exact]
    exact = [t.detach().double().requires_grad_() for t in given]
    results = []
    for operands in (given, exact):
        output = convolve(*operands, stride, padding, dilation, geometry[2])
        grads = torch.autograd.grad(output.double().square().sum(), operands)
        results.append([output, *grads])
    assert results[0][0].dtype == dtype
    for name, ours, right in zip(("output", "dx", "dw", "db"), *results, strict=True):
        error = (ours.double() - right).abs().max() / right.abs().max()
        # Roundings of the output, of what its gradient starts from, and of a sum of 500 terms.
        assert error < 16 * torch.finfo(dtype).eps, f"{name}: {error}"


def test_layers_are_guarded(without_conv3d):
    layer = DCLSConv3d(4, 6, 3, padding=1)
    layer(torch.randn(1, 4, 5, 6, 7)).sum().backward()
    assert layer.positions.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(1, 4, 5, 6, 7)).dtype == torch.bfloat16


def test_the_memory_format_and_empty_batches_stay():
    layer = DCLSConv3d(4, 6, 3, padding=1)
    input = torch.randn(2, 4, 5, 6, 7)
    last = layer(input.contiguous(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    assert layer(input).is_contiguous()
    torch.testing.assert_close(last, layer(input))
    assert layer(input[:0]).shape == (0, 6, 5, 6, 7)


def test_not_a_number_stays_where_the_convolution_has_it():
    input, weight, bias = (t.detach() for t in tensors(GEOMETRIES[0]))
    input[0, 1, 3, 4, 2] = float("nan")
    *_, stride, padding, dilation = GEOMETRIES[0]
    ours = convolve(input.float(), weight.float(), bias.float(), stride, padding, dilation, 1)
    right = F.conv3d(input, weight, bias, stride, padding, dilation)
    assert torch.equal(ours.isnan(), right.isnan())


def test_without_gradients_pytorch_s_own_runs():
    given = [t.detach().float() for t in tensors(GEOMETRIES[0])]
    *_, stride, padding, dilation = GEOMETRIES[0]
    with torch.no_grad():
        output = convolve(*given, stride, padding, dilation, 1)
    assert torch.equal(output, F.conv3d(*given, stride, padding, dilation))
    torch.testing.assert_close(convolve(*given, stride, padding, dilation, 1), output)


def test_traces_hold_one_convolution():
    """They compute no gradients, and others read them."""
    input, weight, bias = (t.detach().float() for t in tensors(GEOMETRIES[0]))
    *_, stride, padding, dilation = GEOMETRIES[0]
    traced = torch.jit.trace(
        lambda x: convolve(x, weight, bias, stride, padding, dilation, 1), input, check_trace=False
    )
    assert sum("conv" in node.kind() for node in traced.graph.nodes()) == 1
