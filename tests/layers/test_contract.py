"""What every layer of the catalogue promises: arguments, shapes, memory, folding, counts."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlearnconv.catalog import CATALOG, operator_of
from mmlearnconv.layers.base import CONVOLUTIONS
from mmlearnconv.ops import has_extension
from mmlearnconv.surgery import build_conv
from tests.layers.contract import (
    DYNAMIC,
    EVERY_LAYER,
    LAYER,
    STATIC,
    TAKES_OVER,
    build,
    exact_options,
    geometries,
    in_dimensions,
    random_map,
)


@EVERY_LAYER
def test_signature_is_conv2d_s(name, layer, options):
    plain = CONVOLUTIONS[layer.spatial_dims]
    shared = list(inspect.signature(plain).parameters.values())[:9]
    ours = list(inspect.signature(layer).parameters.values())
    assert [(p.name, p.default) for p in ours[:9]] == [(p.name, p.default) for p in shared]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[9:])


@EVERY_LAYER
@pytest.mark.parametrize("geometry", list(geometries(24)), ids=str)
def test_output_shape_is_conv2d_s(name, layer, options, geometry):
    x = random_map(layer, size=(23, 25, 24))
    geometry = in_dimensions(layer, geometry)
    plain, conv = CONVOLUTIONS[layer.spatial_dims](**geometry), build(layer, geometry, options)
    assert conv is None or conv(x).shape == plain(x).shape


@LAYER
def test_is_no_conv2d_and_exports_what_conv_module_reads(name, layer, options):
    ConvModule = pytest.importorskip("mmcv.cnn").ConvModule
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


@EVERY_LAYER
def test_is_built_by_class(name, layer, options):
    assert isinstance(build_conv(dict(type=layer, **options), 4, 4, 3), layer)


@pytest.mark.parametrize("operator", CATALOG, ids=lambda operator: operator.name)
@pytest.mark.parametrize("named", ["type", "class"])
def test_kernel_size_one_by_name(operator, named):
    """By the type's name and by the class's; some operators leave 1x1 convolutions plain."""
    if named == "class" and operator.fixed:
        return  # The class's name is that of the type without fixed options.
    cfg = dict(type=operator.name if named == "type" else operator.layer.__name__)
    conv = build_conv(cfg, 4, 6, 1, stride=2, bias=False)
    plain = operator.pointwise_is_plain
    dims = operator.layer.spatial_dims
    assert type(conv) is (
        {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims] if plain else operator.layer
    )
    assert (conv.in_channels, conv.out_channels, conv.bias) == (4, 6, None)
    assert conv.stride == (2,) * dims


@TAKES_OVER
@pytest.mark.parametrize("mode", ["reflect", "replicate", "zero"])
def test_explicit_padding_of_conv_module(name, layer, options, mode):
    """ConvModule pads by itself and hands the layer padding 0; zeros lie beyond that."""
    ConvModule = pytest.importorskip("mmcv.cnn").ConvModule
    cfg = dict(type=name, **options, **exact_options(layer, 3, options))
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
        if size == 1 and operator_of(name).pointwise_is_plain:
            continue  # The layer itself is not meant for it.
        geometry = dict(padding=size // 2, groups=groups)
        output = layer(4, 4, size, **geometry, **options)(x)
        assert output.stride() == nn.Conv2d(4, 4, size, **geometry)(x).stride()


@EVERY_LAYER
def test_an_input_without_a_batch_is_refused_with_its_shape(name, layer, options):
    x = random_map(layer, size=(9, 9, 9))[0]
    said = rf"shape {re.escape(str(tuple(x.shape)))}; it must have {x.ndim + 1} dimensions"
    with pytest.raises(ValueError, match=said):
        layer(4, 4, 3, **options)(x)


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_inputs_of_every_kind(name, layer, options, groups):
    conv = layer(4, 4, 7, padding=3, groups=groups, **options)
    x = random_map(layer, 3, size=(12, 10, 9))
    expected = conv(x)
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if channels_last is not None:
        torch.testing.assert_close(conv(x.contiguous(memory_format=channels_last)), expected)
    strided = random_map(layer, 3, 8, size=(24, 20, 18))[:, ::2].transpose(-1, 2)[..., ::2]
    assert not strided.is_contiguous()
    torch.testing.assert_close(conv(strided), conv(strided.contiguous()))
    pixel = x[(..., *[slice(1)] * layer.spatial_dims)]
    assert conv(pixel).shape == pixel.shape
    assert conv(pixel[:1]).shape == pixel[:1].shape
    empty = conv(x[:0].requires_grad_())
    assert empty.shape == x[:0].shape
    empty.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in conv.parameters())
    torch.testing.assert_close(conv.double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5)


@STATIC
def test_translation_of_the_input_translates_the_output(name, layer, options):
    conv = layer(2, 2, 3, padding=1, **options).double()
    axes = tuple(range(2, 2 + layer.spatial_dims))
    x = torch.zeros_like(random_map(layer, 1, 2, (31, 31, 31))).double()
    patch = random_map(layer, 1, 2, (4, 4, 4)).double()
    x[(..., *[slice(12, 16)] * len(axes))] = patch
    by = (3, -2, 1)[: len(axes)]
    torch.testing.assert_close(conv(x.roll(by, axes)), conv(x).roll(by, axes))


@DYNAMIC
def test_no_dense_form_of_a_dynamic_layer(name, layer, options):
    with pytest.raises(ValueError, match=layer.__name__):
        layer(4, 4, 3, **options).to_conv()


@EVERY_LAYER
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (dict(kernel_size=0), ValueError),
        (dict(kernel_size=2.5), TypeError),
        (dict(kernel_size=(3, 3, 3, 3)), TypeError),
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


@EVERY_LAYER
def test_multiply_adds_are_counted(name, layer, options):
    """By PyTorch's counter and by mmengine's, which traces, as the layer counts them itself."""
    conv = layer(8, 8, 3, padding=1, **options).eval()
    x = random_map(layer, 1, 8, (16, 16, 16))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        conv(x)
    parts = conv.macs(x.shape[2:])
    counted = counter.get_total_flops() // 2
    # Element-wise work is not counted.
    assert max(parts.values()) <= counted
    # Building a kernel takes products, too; uncompiled, DKE multiplies all cells of its window.
    if has_extension():
        assert counted <= 2 * sum(parts.values())
    # mmengine counts some element-wise work too.
    analysis = pytest.importorskip("mmengine.analysis")
    traced = analysis.get_model_complexity_info(conv, inputs=(x,), show_table=False)["flops"]
    assert 0.9 * counted <= traced


@EVERY_LAYER
def test_no_parameter_is_left_without_a_gradient(name, layer, options):
    """Which is what DistributedDataParallel asks of a model."""
    conv = layer(4, 4, 3, **options)
    conv(random_map(layer, 1, size=(9, 9, 9))).sum().backward()
    assert all(p.grad is not None for p in conv.parameters())


@EVERY_LAYER
@pytest.mark.parametrize("groups", [1, 4])
def test_runs_on_meta(name, layer, options, groups):
    """Tools that plan memory run models on the meta device."""
    conv = layer(4, 8, 3, stride=2, groups=groups, **options).to("meta")
    output = conv(random_map(layer, size=(9, 8, 7)).to("meta"))
    assert output.shape == (2, 8, *(4, 3, 3)[: layer.spatial_dims])
    output.sum().backward()
    nn.Sequential(conv).apply(lambda module: None)


@STATIC
def test_to_conv(name, layer, options):
    plain = CONVOLUTIONS[layer.spatial_dims]
    for geometry in geometries(24):
        conv = build(layer, in_dimensions(layer, geometry), options)
        if conv is None:
            continue
        x = random_map(layer, 1, size=(23, 25, 24))
        wider = conv.dense_kernel().shape[2:] != conv.kernel_size
        if wider and conv.padding_mode != "zeros":
            with pytest.raises(ValueError, match="padding"):
                conv.to_conv()
            continue
        dense = conv.to_conv()
        assert type(dense) is plain
        torch.testing.assert_close(dense(x), conv(x), rtol=1e-4, atol=1e-5)
        assert dense.weight.data_ptr() != conv.weight.data_ptr()


def test_own_options_are_left_out_where_the_convolution_is_plain():
    conv = build_conv(dict(type="DCLS", kernel_count=3), 4, 6, 1)
    assert type(conv) is nn.Conv2d
