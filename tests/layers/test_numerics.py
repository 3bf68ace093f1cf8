"""Precision and derivatives of every layer of the catalogue."""

import copy
from contextlib import nullcontext

import pytest
import torch

from mmlearnconv import ops
from tests.layers.contract import EVERY_LAYER, random_map


@EVERY_LAYER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, layer, options, dtype):
    conv = layer(4, 4, 7, padding=3, groups=4, **options)
    x = random_map(layer, size=(12, 10, 9))
    with torch.autocast("cpu", dtype=dtype):
        y = conv(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), conv(x), rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in conv.parameters())
    assert all(p.grad.isfinite().all() for p in conv.parameters())


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(name, layer, options, groups, dtype):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = random_map(layer, size=(9, 8, 7))
    half = copy.deepcopy(conv).to(dtype)
    output = half(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), conv(x), rtol=0.05, atol=0.05)
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_inside_autocast(name, layer, options, groups, dtype):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = random_map(layer, size=(9, 8, 7))
    with torch.autocast("cpu", dtype=dtype):
        conv(x.requires_grad_()).float().square().sum().backward()
    inside = [x.grad, *(p.grad for p in conv.parameters())]
    x.grad = None
    conv.zero_grad()
    conv(x).square().sum().backward()
    for found, expected in zip(inside, [x.grad, *(p.grad for p in conv.parameters())], strict=True):
        assert (found - expected).norm() <= 0.1 * expected.norm() + 1e-3


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_by_torch_func(name, layer, options, groups):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x, parameters = random_map(layer), dict(conv.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(conv, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)({k: p.detach() for k, p in parameters.items()}, x)
    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_second_derivatives_are_right_or_refused(name, layer, options, groups):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options).double()
    x = random_map(layer, 1, size=(5, 6, 4)).double().requires_grad_()
    leaves = [x, *conv.parameters()]
    # Away from where interpolation has a kink: whole positions, and widths of zero.
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(torch.empty_like(parameter).uniform_(0.01, 0.02))
    towards = [torch.randn_like(leaf) for leaf in leaves]
    along = [torch.randn_like(leaf) for leaf in leaves]

    def slope(create_graph):
        grads = torch.autograd.grad(conv(x).pow(3).sum(), leaves, create_graph=create_graph)
        return sum((g * t).sum() for g, t in zip(grads, towards, strict=True))

    refusal = None
    try:
        grads = torch.autograd.grad(slope(True), leaves, allow_unused=True)
    except RuntimeError as error:
        refusal = str(error)
    if refusal is not None:
        assert "can be differentiated once, not twice" in refusal
        return
    found = sum((g * a).sum() for g, a in zip(grads, along, strict=True) if g is not None)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for leaf, a in zip(leaves, along, strict=True):
                leaf.add_(step * a)
        ends.append(slope(False))
        with torch.no_grad():
            for leaf, a in zip(leaves, along, strict=True):
                leaf.sub_(step * a)
    expected = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("path", [nullcontext, ops.without_extension])
def test_a_parameter_that_is_no_number_shows(name, layer, options, groups, path):
    """A NaN in any parameter shows in some output; an infinity too, or has a limit."""
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = random_map(layer)

    def output(parameter, value):
        kept = parameter.data.clone()
        parameter.data.flatten()[0] = value
        with path():
            y = conv(x)
        parameter.data.copy_(kept)
        return y

    for name, parameter in conv.named_parameters():
        assert output(parameter, float("nan")).isnan().any(), name
        for sign in (1, -1):
            y = output(parameter, sign * float("inf"))
            # As a position beyond the window, or a sigmoid.
            assert not y.isfinite().all() or torch.equal(y, output(parameter, sign * 1e8)), name
    assert conv(x).isfinite().all()
