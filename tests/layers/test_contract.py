"""What every layer promises, whatever it computes."""

import copy
import inspect
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
def test_apply_reaches_the_layer_itself(name, layer, options):
    seen = []
    conv = layer(4, 4, 3, **options)
    nn.Sequential(conv).apply(lambda m: seen.append(m))
    assert conv in seen


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


@LAYER
@pytest.mark.parametrize("groups", [1, 8])
def test_compiles_without_a_break(name, layer, options, groups):
    conv = layer(8, 8, 7, padding=3, groups=groups, **options)
    x = torch.randn(2, 8, 20, 20)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), conv(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()
    grads = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    conv(x).sum().backward()
    for ours, expected in zip(grads, (p.grad for p in conv.parameters()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@LAYER
@pytest.mark.parametrize("groups", [1, 8])
def test_exports_with_the_same_numbers(name, layer, options, groups):
    conv = layer(8, 8, 3, padding=1, groups=groups, **options).eval()
    x = torch.randn(2, 8, 20, 21)
    exported = torch.export.export(conv, (x,))
    torch.testing.assert_close(exported.module()(x), conv(x), rtol=1e-4, atol=1e-5)


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
