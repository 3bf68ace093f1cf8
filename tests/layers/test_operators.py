"""What the layers of the catalogue compute with: derivatives, and how operators are registered."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from tests.layers.contract import ALL_LAYERS, EVERY_LAYER, random_map
from tests.ops.op_testing import built


class Calls(TorchDispatchMode):
    """Collects one call of each of this package's operators."""

    def __init__(self):
        super().__init__()
        self.arguments = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mmlearnconv":
            self.arguments[func] = args
        return func(*args, **(kwargs or {}))


@built
@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_operators_are_registered_as_pytorch_s_own(name, layer, options, groups):
    """Shapes without data, schema, autograd: what torch.compile and export rely on."""
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = random_map(layer).requires_grad_()
    with Calls() as calls:
        conv(x).sum().backward()
    for operator, arguments in calls.arguments.items():
        detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.library.opcheck(operator, detached)


# What has a gradient that its paper defines, which is not the derivative.
DEFINED = {
    "DKE": ["positions"],
    "DRConv": ["input", "guide_weight", "guide_bias"],
}


@pytest.mark.parametrize("key", ALL_LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_are_those_of_differences(key, groups):
    name, layer, options = ALL_LAYERS[key]
    conv = layer(2, 4, 3, padding=1, stride=2, groups=groups, **options).double().eval()
    for parameter in conv.parameters():
        # Away from whole positions, where interpolation has kinks.
        nn.init.uniform_(parameter, 0.1, 0.4)
    leaves = dict(conv.named_parameters(), input=random_map(layer, 2, 2, (5, 4, 3)).double())
    leaves = {
        key: value.detach().requires_grad_(key not in DEFINED.get(name, []))
        for key, value in leaves.items()
    }

    def call(*values):
        parameters = dict(zip(leaves, values, strict=True))
        return torch.func.functional_call(conv, parameters, (parameters.pop("input"),))

    assert gradcheck(call, tuple(leaves.values()), fast_mode=True)
