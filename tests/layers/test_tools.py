"""PyTorch's tools for modules: right, or refused by name."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.layers.contract import EVERY_LAYER, random_map


def make(layer, options, **more):
    conv = layer(4, 4, 3, padding=1, **options, **more)
    return conv, random_map(layer)


def kernel_name(conv):
    """The largest parameter: what takes the place of the plain kernel."""
    own = dict(conv.named_parameters(recurse=False))
    return max(own, key=lambda name: own[name].numel())


def saved(conv):
    file = io.BytesIO()
    torch.save(conv, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@EVERY_LAYER
@pytest.mark.parametrize(
    "twin",
    [
        copy.deepcopy,
        lambda conv: pickle.loads(pickle.dumps(conv)),
        saved,
    ],
    ids=["deepcopy", "pickle", "save"],
)
def test_copies_compute_the_same_and_share_nothing(name, layer, options, twin):
    conv, x = make(layer, options)
    other = twin(conv)
    assert torch.equal(other(x), conv(x))
    assert repr(other) == repr(conv)
    own = {p.data_ptr() for p in conv.parameters()}
    assert not own & {p.data_ptr() for p in other.parameters()}
    other.load_state_dict(conv.state_dict())


@EVERY_LAYER
@pytest.mark.parametrize(
    "change",
    [
        lambda conv, name: parametrizations.weight_norm(conv, name),
        lambda conv, name: parametrizations.spectral_norm(conv, name),
        lambda conv, name: parametrize.register_parametrization(conv, name, Halved()),
        lambda conv, name: prune.l1_unstructured(conv, name, 0.5),
        lambda conv, name: prune.random_structured(conv, name, 0.5, 0),
    ],
    ids=["weight_norm", "spectral_norm", "parametrize", "prune", "prune_channels"],
)
def test_a_computed_kernel_is_used(name, layer, options, change):
    """The output is that of a layer whose parameter has the computed value; it learns."""
    conv, x = make(layer, options)
    kernel = kernel_name(conv)
    # Zeros, as offsets start from, have no norm.
    nn.init.normal_(conv.get_parameter(kernel), std=0.1)
    twin = copy.deepcopy(conv)
    change(conv.eval(), kernel)
    twin.get_parameter(kernel).data.copy_(getattr(conv, kernel).detach())
    torch.testing.assert_close(conv(x), twin.eval()(x))
    conv(x).square().sum().backward()
    assert all(p.grad is not None for p in conv.parameters())
    torch.optim.SGD(conv.parameters(), lr=1e-3).step()
    assert conv(x).isfinite().all()


class Halved(nn.Module):
    def forward(self, value):
        return value / 2


def right_or_refused(call, reason):
    """What a call returns, or ``None`` where it says that it cannot."""
    try:
        return call()
    except RuntimeError as error:
        refusal = str(error)
    assert re.search(reason, refusal), refusal
    return None


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_vmap_is_right_or_refused(name, layer, options, groups):
    conv, _ = make(layer, options, groups=groups)
    x = torch.stack([random_map(layer) for _ in range(3)])
    expected = torch.stack([conv(each) for each in x])
    found = right_or_refused(lambda: torch.func.vmap(conv)(x), "Batch norm got a batched tensor")
    # It has batch norms, whose averages know no further batch.
    assert (found is None) == (name == "Involution")
    if found is None:
        return
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_forward_derivatives_are_right_or_refused(name, layer, options, groups):
    conv, x = make(layer, options, groups=groups)
    conv, x = conv.double(), x.double().requires_grad_()
    direction, upstream = torch.randn_like(x), torch.randn_like(conv(x))
    (backward,) = torch.autograd.grad(conv(x), x, upstream)
    found = right_or_refused(
        lambda: torch.func.jvp(conv, (x.detach(),), (direction,)), "jvp|forward AD|forward-mode"
    )
    if found is None:
        return
    _, forward = found
    torch.testing.assert_close((forward * upstream).sum(), (backward * direction).sum())


@EVERY_LAYER
def test_scripting_is_refused_by_name(name, layer, options):
    conv, _ = make(layer, options)
    with pytest.raises(RuntimeError, match=rf"{layer.__name__}.*torch\.export"):
        torch.jit.script(nn.Sequential(conv))


@EVERY_LAYER
def test_a_quantised_map_is_refused_by_name(name, layer, options):
    conv, x = make(layer, options)
    quantised = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=rf"{layer.__name__}: the input is quantised.*fold"):
        conv(quantised)


@EVERY_LAYER
def test_a_quantised_model_is_refused_by_name(name, layer, options):
    # Deprecated: later versions may have it no longer.
    quantization = pytest.importorskip("torch.ao.quantization")
    conv, x = make(layer, options)
    model = nn.Sequential(quantization.QuantStub(), conv, quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(model)
    # Observed in float, it computes what it did.
    assert torch.equal(prepared(x), conv(x))
    converted = quantization.convert(prepared)
    with pytest.raises(ValueError, match=rf"{layer.__name__}: the input is quantised.*fold"):
        converted(x)


@EVERY_LAYER
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64])
def test_maps_of_other_dtypes_are_refused(name, layer, options, dtype):
    conv, x = make(layer, options)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=r"dtype|type|Float|float"):
        conv(x.to(dtype))


@EVERY_LAYER
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_pixel_that_is_no_number_shows(name, layer, options, value, groups):
    """At least in its channel, and only in its own image."""
    conv, x = make(layer, options, groups=groups)
    pixel = 1, 2, *(3, 4, 2)[: layer.spatial_dims]
    x[pixel] = value
    # Batch norms mix images in training.
    y = conv.eval()(x)
    assert y[0].isfinite().all()
    assert not y[pixel].isfinite()


@EVERY_LAYER
def test_deterministic_algorithms_are_used(name, layer, options):
    conv, x = make(layer, options)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            conv.zero_grad()
            y = conv(x)
            y.square().sum().backward()
            runs.append([y, *(p.grad.clone() for p in conv.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
