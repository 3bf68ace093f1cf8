"""For what a layer passes to its operation, the operation gives what its definition gives."""

import sys
from unittest import mock

import pytest
import torch

from mmlearnconv import ops
from mmlearnconv.ops import reference
from tests.layers.contract import EVERY_LAYER, build, geometries, in_dimensions, random_map

DEFINED = {
    name: function
    for name, function in vars(reference).items()
    if callable(function) and getattr(ops, name, None) not in (None, function)
}


def calls_of(conv, x):
    """Calls of operations that have a definition: their names and arguments."""
    module, calls = vars(sys.modules[type(conv).__module__]), []

    def recorded(name, function):
        def call(*args, **kwargs):
            calls.append((name, args, kwargs))
            return function(*args, **kwargs)

        return call

    used = {name: recorded(name, module[name]) for name in DEFINED if name in module}
    with mock.patch.dict(module, used):
        conv(x)
    return calls


def values_and_gradients(function, args, kwargs):
    """Output and gradients of one call, for float64 copies of its tensors."""
    leaves = []

    def leaf(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().double().clone().requires_grad_())
        return leaves[-1]

    args = [leaf(a) for a in args]
    output = function(*args, **{key: leaf(value) for key, value in kwargs.items()})
    upstream = torch.linspace(-1, 1, output.numel(), dtype=torch.double).sin().view_as(output)
    return [output, *torch.autograd.grad(output, leaves, upstream, allow_unused=True)]


@EVERY_LAYER
@pytest.mark.parametrize("path", ["compiled", "PyTorch"])
def test_values_and_gradients_are_the_definition_s(name, layer, options, path):
    if path == "compiled" and not ops.has_extension():
        pytest.skip("the compiled operations are not built")
    met = 0
    for number, geometry in enumerate(geometries(8)):
        torch.manual_seed(number)
        conv = build(layer, in_dimensions(layer, geometry), options)
        if conv is None:
            continue
        with torch.no_grad():
            for parameter in conv.parameters():
                # Away from zeros and whole positions, where interpolation has kinks.
                parameter.add_(torch.empty_like(parameter).uniform_(0.02, 0.06))
        for called, args, kwargs in calls_of(conv, random_map(layer, size=(23, 25, 24))):
            met += 1
            expected = values_and_gradients(DEFINED[called], args, kwargs)
            if path == "PyTorch":
                with ops.without_extension():
                    found = values_and_gradients(getattr(ops, called), args, kwargs)
            else:
                found = values_and_gradients(getattr(ops, called), args, kwargs)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    assert met
