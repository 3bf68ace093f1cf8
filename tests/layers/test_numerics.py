"""Precision and derivatives of every layer of the catalogue."""

import copy

import pytest
import torch

from tests.layers.contract import LAYER


@LAYER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, layer, options, dtype):
    conv = layer(4, 4, 7, padding=3, groups=4, **options)
    x = torch.randn(2, 4, 12, 10)
    with torch.autocast("cpu", dtype=dtype):
        y = conv(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), conv(x), rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in conv.parameters())
    assert all(p.grad.isfinite().all() for p in conv.parameters())


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(name, layer, options, groups, dtype):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = torch.randn(2, 4, 9, 8)
    half = copy.deepcopy(conv).to(dtype)
    output = half(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), conv(x), rtol=0.05, atol=0.05)
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_inside_autocast(name, layer, options, groups, dtype):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = torch.randn(2, 4, 9, 8)
    with torch.autocast("cpu", dtype=dtype):
        conv(x.requires_grad_()).float().square().sum().backward()
    inside = [x.grad, *(p.grad for p in conv.parameters())]
    x.grad = None
    conv.zero_grad()
    conv(x).square().sum().backward()
    for found, expected in zip(inside, [x.grad, *(p.grad for p in conv.parameters())], strict=True):
        assert (found - expected).norm() <= 0.1 * expected.norm() + 1e-3


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_by_torch_func(name, layer, options, groups):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x, parameters = torch.randn(2, 4, 7, 8), dict(conv.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(conv, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)({k: p.detach() for k, p in parameters.items()}, x)
    expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_second_derivatives_are_right_or_refused(name, layer, options, groups):
    conv = layer(4, 4, 3, padding=1, groups=groups, **options).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.double, requires_grad=True)
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


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_a_parameter_that_is_no_number_shows(name, layer, options, groups):
    """A NaN in any parameter shows in some output."""
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = torch.randn(2, 4, 7, 8)
    for name, parameter in conv.named_parameters():
        value = parameter.data.clone()
        parameter.data.flatten()[0] = float("nan")
        assert conv(x).isnan().any(), name
        parameter.data.copy_(value)
    assert conv(x).isfinite().all()
