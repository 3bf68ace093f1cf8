"""What every layer promises, whatever it computes."""

import copy
import inspect
import math
import os
import random

import pytest
import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.analysis import get_model_complexity_info
from mmengine.model import initialize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlearnconv.layers import (
    CoCConv2d,
    CondConv2d,
    DCLSConv2d,
    DeformableKernelConv2d,
    DKEConv2d,
    DRConv2d,
)
from mmlearnconv.layers.base import report_plain_loads

# type name in conv_cfg, class, options
LAYERS = {
    "DCLS": ("DCLS", DCLSConv2d, {}),
    "DCLS-gauss": ("DCLS", DCLSConv2d, dict(interpolation="gauss")),
    "DCLS-triangle": ("DCLS", DCLSConv2d, dict(interpolation="triangle")),
    "DK-local": ("DK", DeformableKernelConv2d, dict(mode="local")),
    "DK-global": ("DK", DeformableKernelConv2d, dict(mode="global")),
    "DK-data": ("DK", DeformableKernelConv2d, dict(mode="global", data_offset=True)),
    "DK-experts": ("DK", DeformableKernelConv2d, dict(mode="local", num_experts=3)),
    "DKE": ("DKE", DKEConv2d, {}),
    "DKE-static": ("DKE", DKEConv2d, dict(attention=False)),
    "ACU": (
        "ACU",
        DKEConv2d,
        dict(interpolation="bilinear", shared_positions=True, attention=False),
    ),
    "CoC": ("CoC", CoCConv2d, {}),
    "CoC-standardize": ("CoC", CoCConv2d, dict(normalize="standardize", super_layers=2)),
    "CoC-no-skip": ("CoC", CoCConv2d, dict(association=3, skip=False, dilated=False)),
    "ConvStnd": ("ConvStnd", CoCConv2d, dict(association=1, normalize="standardize")),
    "CondConv": ("CondConv", CondConv2d, dict(num_experts=3)),
    "DRConv": ("DRConv", DRConv2d, dict(regions=3)),
    "DRConv-general": ("DRConv", DRConv2d, dict(regions=3, hidden_channels=6)),
}
LAYER = pytest.mark.parametrize(("name", "layer", "options"), LAYERS.values(), ids=LAYERS.keys())


def whole(layer, kernel_size):
    """The option that gives every cell of the plain kernel an element."""
    return dict(kernel_count=kernel_size[0] * kernel_size[1]) if layer is DCLSConv2d else {}


def tolerance(layer, options):
    """Relative error of a layer that took over a plain kernel, in float64."""
    if layer is DCLSConv2d and options.get("interpolation") == "gauss":
        return 5e-3
    if layer is DKEConv2d and options.get("interpolation", "gauss") == "gauss":
        return 1e-3
    return 1e-10


def geometries(count):
    rng = random.Random(0)
    for _ in range(count):
        kernel = rng.choice([(2, 2), (3, 3), (3, 5), (7, 7), (1, 3), (4, 3)])
        groups = rng.choice([1, 2, 4])
        yield dict(
            in_channels=4,
            out_channels=rng.choice([4, 8]),
            kernel_size=kernel,
            stride=rng.choice([1, 2, (2, 1)]),
            padding=rng.choice([0, 1, 3, (1, 0)]),
            dilation=rng.choice([1, 2, (1, 3)]),
            groups=groups,
            bias=rng.random() < 0.5,
            padding_mode=rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"]),
        )
    yield dict(in_channels=4, out_channels=4, kernel_size=4, padding="same", dilation=3)
    yield dict(in_channels=4, out_channels=4, kernel_size=3, padding="valid", groups=4)


@LAYER
def test_signature_is_conv2d_s(name, layer, options):
    shared = list(inspect.signature(nn.Conv2d).parameters.values())[:9]
    ours = list(inspect.signature(layer).parameters.values())
    assert [(p.name, p.default) for p in ours[:9]] == [(p.name, p.default) for p in shared]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[9:])


@LAYER
@pytest.mark.parametrize("geometry", list(geometries(24)), ids=str)
def test_output_shape_is_conv2d_s(name, layer, options, geometry):
    x = torch.randn(2, 4, 23, 25)
    assert layer(**geometry, **options)(x).shape == nn.Conv2d(**geometry)(x).shape


@LAYER
@pytest.mark.parametrize("geometry", list(geometries(24)), ids=str)
def test_takes_over_a_plain_convolution(name, layer, options, geometry):
    """With an element for every cell, whatever the padding around the kernel does."""
    plain = nn.Conv2d(**geometry).double()
    swapped = layer(**geometry, **options, **whole(layer, plain.kernel_size)).double()
    swapped.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 23, 25, dtype=torch.double)
    error = (swapped(x) - plain(x)).norm() / plain(x).norm()
    assert error < tolerance(layer, options)


@LAYER
def test_is_no_conv2d_and_exports_what_conv_module_reads(name, layer, options):
    module = ConvModule(
        4, 8, 3, stride=2, padding=1, dilation=2, conv_cfg=dict(type=name, **options)
    )
    assert isinstance(module.conv, layer)
    assert not isinstance(module.conv, nn.Conv2d)
    plain = ConvModule(4, 8, 3, stride=2, padding=1, dilation=2)
    for attribute in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "transposed",
        "output_padding",
        "groups",
    ):
        assert getattr(module, attribute) == getattr(plain, attribute)


@LAYER
def test_is_built_by_class(name, layer, options):
    assert isinstance(build_conv_layer(dict(type=layer, **options), 4, 4, 3), layer)


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="DCLS", kernel_count=3),
        dict(type="CoC", association=3),
        dict(type="ConvStnd"),
        dict(type="ConvOrth"),
        dict(type="ACU"),
    ],
    ids=str,
)
def test_kernel_size_one_is_plain(cfg):
    conv = build_conv_layer(cfg, 4, 6, 1, stride=2, bias=False)
    assert type(conv) is nn.Conv2d
    assert (conv.in_channels, conv.out_channels, conv.stride, conv.bias) == (4, 6, (2, 2), None)


@LAYER
@pytest.mark.parametrize("mode", ["reflect", "replicate", "zero"])
def test_explicit_padding_of_conv_module(name, layer, options, mode):
    """ConvModule pads by itself and hands the layer padding 0; zeros lie beyond that."""
    cfg = dict(type=name, **options, **whole(layer, (3, 3)))
    ours = ConvModule(4, 4, 3, padding=1, padding_mode=mode, conv_cfg=cfg, act_cfg=None)
    plain = ConvModule(4, 4, 3, padding=1, padding_mode=mode, act_cfg=None)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=0.01)


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_lie_in_memory_as_a_convolution_s(name, layer, options, groups, memory_format):
    """mmcv's RoIAlign reads a map's memory as NCHW, whatever its strides say."""
    x = torch.randn(3, 4, 12, 10).contiguous(memory_format=memory_format)
    for size in (1, 3, 7):
        if size == 1 and name.startswith(("DCLS", "CoC", "ConvStnd", "ConvOrth")):
            continue  # The layer itself is not meant for it.
        geometry = dict(padding=size // 2, groups=groups)
        output = layer(4, 4, size, **geometry, **options)(x)
        assert output.stride() == nn.Conv2d(4, 4, size, **geometry)(x).stride()


@LAYER
def test_an_input_without_a_batch_is_refused_with_its_shape(name, layer, options):
    with pytest.raises(ValueError, match=r"shape \(4, 9, 9\); it must have 4 dimensions"):
        layer(4, 4, 3, **options)(torch.randn(4, 9, 9))


@LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_inputs_of_every_kind(name, layer, options, groups):
    conv = layer(4, 4, 7, padding=3, groups=groups, **options)
    x = torch.randn(3, 4, 12, 10)
    expected = conv(x)
    torch.testing.assert_close(conv(x.contiguous(memory_format=torch.channels_last)), expected)
    strided = torch.randn(3, 12, 4, 20).transpose(1, 2)[..., ::2]
    assert not strided.is_contiguous()
    torch.testing.assert_close(conv(strided), conv(strided.contiguous()))
    assert conv(x[..., :1, :1]).shape == (3, 4, 1, 1)
    empty = conv(x[:0].requires_grad_())
    assert empty.shape == (0, 4, 12, 10)
    empty.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in conv.parameters())
    torch.testing.assert_close(conv.double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5)


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


STATIC = pytest.mark.parametrize(
    ("name", "layer", "options"),
    [row for row in LAYERS.values() if row[1](2, 2, 3, **row[2]).is_static],
    ids=str,
)
DYNAMIC = pytest.mark.parametrize(
    ("name", "layer", "options"),
    [row for row in LAYERS.values() if not row[1](2, 2, 3, **row[2]).is_static],
    ids=str,
)


@STATIC
def test_translation_of_the_input_translates_the_output(name, layer, options):
    conv = layer(2, 2, 3, padding=1, **options).double()
    x = torch.zeros(1, 2, 31, 31, dtype=torch.double)
    x[..., 12:16, 12:16] = torch.randn(2, 4, 4, dtype=torch.double)
    moved = conv(x.roll((3, -2), (2, 3)))
    torch.testing.assert_close(moved, conv(x).roll((3, -2), (2, 3)))


@DYNAMIC
def test_no_dense_form_of_a_dynamic_layer(name, layer, options):
    with pytest.raises(ValueError, match=layer.__name__):
        layer(4, 4, 3, **options).to_dense()


@STATIC
def test_to_dense(name, layer, options):
    for geometry in geometries(24):
        conv = layer(**geometry, **options)
        x = torch.randn(1, 4, 23, 25)
        wider = conv.dense_kernel().shape[2:] != conv.kernel_size
        if wider and conv.padding_mode != "zeros":
            with pytest.raises(ValueError, match="padding"):
                conv.to_dense()
            continue
        dense = conv.to_dense()
        assert type(dense) is nn.Conv2d
        torch.testing.assert_close(dense(x), conv(x), rtol=1e-4, atol=1e-5)
        assert dense.weight.data_ptr() != conv.weight.data_ptr()


@LAYER
def test_state_dict_and_copy_round_trip(name, layer, options):
    conv, other = layer(4, 8, 3, **options), layer(4, 8, 3, **options)
    x = torch.randn(1, 4, 9, 9)
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x), conv(x))
    twin = copy.deepcopy(conv)
    assert torch.equal(twin(x), conv(x))
    report_plain_loads()


@LAYER
def test_one_line_reports_a_plain_load(name, layer, options):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    model = nn.Sequential(
        layer(3, 8, 3, **options), layer(8, 8, 3, groups=8, **options), nn.Conv2d(8, 2, 1)
    )
    messages = captured(lambda: (model.load_state_dict(plain.state_dict()), report_plain_loads()))
    assert len(messages) == 1
    model[0].eval()
    assert messages[0].startswith(f"2 {layer.__name__} layers set from plain convolution weights")
    assert captured(lambda: model(torch.randn(1, 3, 9, 9))) == []


@LAYER
def test_partial_and_mixed_checkpoints_are_as_strict_as_ever(name, layer, options):
    conv, plain = layer(4, 4, 3, **options), nn.Conv2d(4, 4, 3, bias=False)
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        conv.load_state_dict(plain.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        conv.load_state_dict(nn.Conv2d(4, 4, 5).state_dict())
    unbiased = layer(4, 4, 3, bias=False, **options)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*bias"):
        unbiased.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
    report_plain_loads()


@LAYER
def test_init_cfg_for_conv2d_keeps_its_scale(name, layer, options):
    """A head's std 0.01 stays std 0.01: in the response to noise, not only in the weights."""
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
    conv = layer(4, 8, 3, **options)
    kernels = {"weight", "bias", "gain", "mean"}
    before = {k: v.clone() for k, v in conv.state_dict().items() if k not in kernels}
    initialize(nn.Sequential(conv), dict(type="Kaiming", layer="Conv2d"))
    assert all(torch.equal(conv.state_dict()[key], value) for key, value in before.items())


@LAYER
def test_an_init_cfg_for_another_layer_does_nothing(name, layer, options):
    conv = layer(4, 8, 3, **options)
    state, before = torch.random.get_rng_state(), copy.deepcopy(conv.state_dict())
    initialize(nn.Sequential(conv), dict(type="Normal", layer="Linear", std=1.0))
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@LAYER
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (dict(kernel_size=0), ValueError),
        (dict(kernel_size=2.5), TypeError),
        (dict(kernel_size=(3, 3, 3)), TypeError),
        (dict(stride=0), ValueError),
        (dict(padding=-1), ValueError),
        (dict(padding="half"), ValueError),
        (dict(padding="same", stride=2), ValueError),
        (dict(groups=3), ValueError),
        (dict(padding_mode="mirror"), ValueError),
        (dict(in_channels="4"), TypeError),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(name, layer, options, wrong, error):
    arguments = dict(in_channels=4, out_channels=4, kernel_size=3) | wrong | options
    with pytest.raises(error, match=next(iter(wrong))) as raised:
        layer(**arguments)
    assert str(next(iter(wrong.values()))) in str(raised.value)


SIZES = [(2, 8, 20, 20), (2, 8, 31, 14), (1, 8, 9, 25), (3, 8, 12, 12), (2, 8, 16, 33)]


def run_sizes(conv, call, sizes):
    """Outputs and gradients of a call at each size."""
    found = []
    for size in sizes:
        x = torch.linspace(-1, 1, math.prod(size)).sin().view(size).requires_grad_()
        conv.zero_grad()
        output = call(x)
        output.square().sum().backward()
        found += [output.detach(), x.grad, *(p.grad.clone() for p in conv.parameters())]
    return found


def assert_compiled_is_eager(conv, backend):
    torch._dynamo.reset()
    compiled = torch.compile(conv, backend=backend, fullgraph=True)
    for ours, expected in zip(
        run_sizes(conv, compiled, SIZES), run_sizes(conv, conv, SIZES), strict=True
    ):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * scale)


@LAYER
@pytest.mark.parametrize("groups", [1, 8])
def test_compiles_without_a_break_at_every_size(name, layer, options, groups):
    """Detection always has a second size."""
    conv = layer(8, 8, 7, padding=3, groups=groups, **options)
    assert_compiled_is_eager(conv, "aot_eager")


INDUCTOR = ["DK-local", "DRConv"]
if os.environ.get("MMLEARNCONV_TEST_CASES"):
    INDUCTOR = list(LAYERS)


# Older ones fail on sizes that are symbols: 2.6 in Inductor, and in autograd Functions of exports.
any_size = pytest.mark.skipif(
    torch.__version__ < "2.13",
    reason="graphs for any size are claimed from PyTorch 2.13 on",
)


@pytest.mark.slow
@any_size
@pytest.mark.parametrize("key", INDUCTOR)
def test_compiles_with_inductor(key):
    """Half a minute each: all of them in the long run, with MMLEARNCONV_TEST_CASES."""
    _, layer, options = LAYERS[key]
    assert_compiled_is_eager(layer(8, 8, 3, padding=1, **options), "inductor")


# Images of a batch have kernels of their own, which are built a chunk of images at a time.
STATIC_BATCH = {"DK-global", "DK-experts", "CondConv"}


@LAYER
@pytest.mark.parametrize("groups", [1, 8])
def test_exports_with_the_same_numbers(name, layer, options, groups):
    conv = layer(8, 8, 3, padding=1, groups=groups, **options).eval()
    x = torch.randn(2, 8, 20, 21)
    exported = torch.export.export(conv, (x,))
    torch.testing.assert_close(exported.module()(x), conv(x), rtol=1e-4, atol=1e-5)


@any_size
@pytest.mark.parametrize("key", LAYERS)
@pytest.mark.parametrize("groups", [1, 8])
def test_exports_for_any_size(key, groups):
    _, layer, options = LAYERS[key]
    conv = layer(8, 8, 3, padding=1, groups=groups, **options).eval()
    x = torch.randn(2, 8, 20, 21)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    if key in STATIC_BATCH:
        del free[0]
    exported = torch.export.export(conv, (x,), dynamic_shapes=(free,))
    y = torch.randn(2 if key in STATIC_BATCH else 3, 8, 33, 12)
    torch.testing.assert_close(exported.module()(y), conv(y), rtol=1e-4, atol=1e-5)


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
def test_runs_on_meta(name, layer, options, groups):
    """As tools do that plan for memory or shapes."""
    conv = layer(4, 8, 3, stride=2, groups=groups, **options).to("meta")
    output = conv(torch.empty(2, 4, 9, 8, device="meta"))
    assert output.shape == (2, 8, 4, 3)
    output.sum().backward()
    nn.Sequential(conv).apply(lambda module: None)


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
        for name, parameter in conv.named_parameters():
            if "width" in name or ("offset" in name and isinstance(conv, DeformableKernelConv2d)):
                parameter.uniform_(0.01, 0.02)
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
    """In some output, whatever the parameter."""
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    x = torch.randn(2, 4, 7, 8)
    for name, parameter in conv.named_parameters():
        value = parameter.data.clone()
        parameter.data.flatten()[0] = float("nan")
        assert conv(x).isnan().any(), name
        parameter.data.copy_(value)
    assert conv(x).isfinite().all()


@LAYER
def test_plain_weights_into_a_reparametrised_layer_are_refused(name, layer, options):
    conv = torch.nn.utils.parametrizations.weight_norm(layer(4, 4, 3, **options))
    before = copy.deepcopy(conv.state_dict())
    with pytest.raises(RuntimeError, match="load plain weights first"):
        conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
    # The bias is a plain convolution's too.
    changed = [k for k, v in conv.state_dict().items() if not torch.equal(v, before[k])]
    assert changed in ([], ["bias"])
    report_plain_loads()


@LAYER
def test_multiply_adds_are_counted(name, layer, options):
    """By mmengine's analysis, which traces, as by PyTorch's own counter."""
    conv = layer(8, 8, 3, padding=1, **options).eval()
    x = torch.randn(1, 8, 16, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        conv(x)
    counted = get_model_complexity_info(conv, inputs=(x,), show_table=False)["flops"]
    assert counter.get_total_flops() // 2 >= 8 * 8 * 9 * 256 or layer is DRConv2d
    # mmengine counts some element-wise work too.
    assert counted >= 0.9 * counter.get_total_flops() // 2


@LAYER
def test_no_parameter_is_left_without_a_gradient(name, layer, options):
    """Which is what DistributedDataParallel asks of a model."""
    conv = layer(4, 4, 3, **options)
    conv(torch.randn(1, 4, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in conv.parameters())


def captured(call):
    """Messages that mmengine logs during a call."""
    import logging

    from mmengine.logging import MMLogger

    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        call()
    finally:
        logger.removeHandler(handler)
    return messages
