"""Taking over plain weights and initialisers, for every layer of the catalogue."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from mmlearnconv.layers import DCLSConv2d, report_takeovers, takeover_errors
from tests.layers.contract import (
    LAYER,
    REFUSES,
    TAKES_OVER,
    captured,
    exact_options,
    geometries,
    takeover_error,
)


@TAKES_OVER
@pytest.mark.parametrize("geometry", list(geometries(24)), ids=str)
def test_takes_over_a_plain_convolution(name, layer, options, geometry):
    """With an element for every cell, whatever the padding around the kernel does."""
    plain = nn.Conv2d(**geometry).double()
    swapped = layer(
        **geometry, **options | exact_options(layer, plain.kernel_size, options)
    ).double()
    swapped.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 23, 25, dtype=torch.double)
    error = (swapped(x) - plain(x)).norm() / plain(x).norm()
    assert error < takeover_error(layer, options)


@REFUSES
def test_what_it_cannot_compute_is_refused_and_nothing_changes(name, layer, options):
    conv = layer(4, 4, 3, **options)
    before = copy.deepcopy(conv.state_dict())
    with pytest.raises(RuntimeError, match="weight: a plain kernel"):
        conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
    changed = [k for k, v in conv.state_dict().items() if not torch.equal(v, before[k])]
    assert changed in ([], ["bias"])


@LAYER
def test_state_dict_and_copy_round_trip(name, layer, options):
    conv, other = layer(4, 8, 3, **options), layer(4, 8, 3, **options)
    x = torch.randn(1, 4, 9, 9)
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x), conv(x))
    twin = copy.deepcopy(conv)
    assert torch.equal(twin(x), conv(x))


@TAKES_OVER
def test_one_line_reports_a_plain_load(name, layer, options):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    model = nn.Sequential(
        layer(3, 8, 3, **options), layer(8, 8, 3, groups=8, **options), nn.Conv2d(8, 2, 1)
    )
    assert captured(lambda: model.load_state_dict(plain.state_dict())) == []
    assert takeover_errors(model).keys() == {"0", "1"}
    (message,) = captured(lambda: report_takeovers(model))
    assert message.startswith(f"2 {layer.__name__} layers set from plain convolution weights")
    largest = max(takeover_errors(model).values())
    assert message.endswith(f"largest relative error of a kernel {largest:.1e}")
    # A checkpoint of the layers themselves replaces the plain kernels.
    model.load_state_dict(model.state_dict())
    assert takeover_errors(model) == {}
    assert captured(lambda: report_takeovers(model)) == []


@TAKES_OVER
def test_partial_and_mixed_checkpoints_are_as_strict_as_ever(name, layer, options):
    conv, plain = layer(4, 4, 3, **options), nn.Conv2d(4, 4, 3, bias=False)
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        conv.load_state_dict(plain.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        conv.load_state_dict(nn.Conv2d(4, 4, 5).state_dict())
    unbiased = layer(4, 4, 3, bias=False, **options)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*bias"):
        unbiased.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())


@LAYER
def test_init_cfg_for_conv2d_keeps_its_scale(name, layer, options):
    """A head's std 0.01 stays std 0.01: in the response to noise, not only in the weights."""
    ConvModule = pytest.importorskip("mmcv.cnn").ConvModule
    initialize = pytest.importorskip("mmengine.model").initialize
    model = nn.Sequential(ConvModule(32, 64, 3, conv_cfg=dict(type=name, **options)))
    initialize(model, dict(type="Normal", layer="Conv2d", std=0.01, bias=0.5))
    conv = model[0].conv
    assert (conv.bias == 0.5).all()
    noise = torch.randn(8, 32, 20, 20)
    response = (conv(noise) - 0.5)[..., 4:-4, 4:-4].std()
    assert abs(response / (0.01 * (32 * 9) ** 0.5) - 1) < 0.1
    initialize(model, dict(type="Constant", layer="Conv2d", val=0))
    assert conv.bias.abs().max() == 0
    assert conv(torch.randn(1, 32, 5, 5)).abs().max() == 0


@LAYER
def test_apply_shows_the_layer_itself_and_once(name, layer, options):
    """Whoever clips or counts convolutions must not re-draw ours."""
    conv, seen = layer(4, 4, 3, **options), []
    state, before = torch.random.get_rng_state(), copy.deepcopy(conv.state_dict())
    nn.Sequential(conv).apply(seen.append)
    assert [m for m in seen if not isinstance(m, nn.Sequential)] == [conv]
    assert torch.equal(torch.random.get_rng_state(), state)

    def zero_bias(module):
        assert not isinstance(module, nn.Conv2d)
        if isinstance(module, layer):
            module.bias.data.zero_()

    nn.Sequential(conv).apply(zero_bias)
    before["bias"].zero_()
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())


@LAYER
def test_init_cfg_leaves_all_but_kernel_and_bias(name, layer, options):
    """Positions, widths, sharpness and generators stay as the constructor drew them."""
    initialize = pytest.importorskip("mmengine.model").initialize
    conv = layer(4, 8, 3, **options)
    kernels = {"weight", "bias", "gain", "mean"}
    before = {k: v.clone() for k, v in conv.state_dict().items() if k not in kernels}
    initialize(nn.Sequential(conv), dict(type="Kaiming", layer="Conv2d"))
    assert all(torch.equal(conv.state_dict()[key], value) for key, value in before.items())


@LAYER
def test_an_init_cfg_for_another_layer_does_nothing(name, layer, options):
    initialize = pytest.importorskip("mmengine.model").initialize
    conv = layer(4, 8, 3, **options)
    state, before = torch.random.get_rng_state(), copy.deepcopy(conv.state_dict())
    initialize(nn.Sequential(conv), dict(type="Normal", layer="Linear", std=1.0))
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@TAKES_OVER
def test_plain_weights_into_a_reparametrised_layer_are_refused(name, layer, options):
    conv = torch.nn.utils.parametrizations.weight_norm(layer(4, 4, 3, **options))
    before = copy.deepcopy(conv.state_dict())
    with pytest.raises(RuntimeError, match="load plain weights first"):
        conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
    # The bias is a plain convolution's too.
    changed = [k for k, v in conv.state_dict().items() if not torch.equal(v, before[k])]
    assert changed in ([], ["bias"])


def test_a_load_keeps_no_layer_alive():
    """Not even one whose report has yet to come."""
    model = nn.Sequential(DCLSConv2d(3, 4, 3), DCLSConv2d(4, 4, 3))
    model.load_state_dict(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).state_dict())
    layer = weakref.ref(model[0])
    del model
    gc.collect()
    assert layer() is None


@TAKES_OVER
def test_a_load_that_nobody_reports_is_reported_by_the_first_step(name, layer, options):
    """As in mmdet's own tools."""
    model = nn.Sequential(layer(3, 8, 3, **options), layer(8, 2, 3, **options))
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
    model.load_state_dict(plain.state_dict())
    copied = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model(torch.randn(1, 3, 9, 9)).sum().backward()

    def reports():
        said = captured(optimizer.step)
        return [text for text in said if "set from plain convolution weights" in text]

    (message,) = reports()
    assert message.startswith(f"2 {layer.__name__} layers")
    assert reports() == []
    assert captured(lambda: report_takeovers(model)) == []
    assert len(captured(lambda: report_takeovers(copied))) == 1


@pytest.mark.parametrize("count", [5, 9])
def test_a_kernel_that_does_not_fit_is_warned_of(count):
    """Its elements are fewer than the plain kernel's cells; once for all layers of a class."""
    layers = [DCLSConv2d(3, 4, 3, kernel_count=count) for _ in range(2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for layer in layers:
            layer.load_state_dict(nn.Conv2d(3, 4, 3).state_dict())
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (count == 5)
    assert all("relative error above 0.01" in text for text in texts)
