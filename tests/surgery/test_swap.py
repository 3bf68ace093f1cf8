from ast import literal_eval
from collections import OrderedDict

import pytest
import torch
from torch import nn

from mmlearnconv.catalog import operator_names, operator_of
from mmlearnconv.layers import DCLSConv2d, DeformableKernelConv2d, DKEConv2d, LearnableConv
from mmlearnconv.surgery import SwapRule, from_conv, swap_convs
from tests.layers.contract import captured


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(self.depthwise(self.conv2(self.conv1(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.layer2 = nn.Sequential(Block(8), Block(8))
        self.head = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(8, 4, 3, padding=1), activate=nn.ReLU())
        )

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))))


def in_every_block(conv):
    return {f"layer{i}.{j}.{conv}" for i in "12" for j in "01"}


def learnable(model):
    return {n for n, m in model.named_modules() if isinstance(m, LearnableConv)}


@pytest.mark.parametrize("operator", operator_names())
def test_a_swapped_network_gives_the_same_outputs(operator):
    model = Net().double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    expected = model(x)
    assert swap_convs(model, [dict(pattern="*", conv=dict(type=operator))]) is model
    assert learnable(model) >= {"stem", "layer1.0.conv2", "layer1.0.depthwise", "head.conv"}
    near = operator_of(operator).takeover_error > 1e-6
    assert (model(x) - expected).norm() / expected.norm() < (5e-3 if near else 1e-10)


@pytest.mark.parametrize("operator", operator_names(baselines=False))
@pytest.mark.parametrize(
    "geometry",
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=5, padding=2, stride=2),
        dict(kernel_size=3, padding=2, dilation=2, groups=2, bias=False),
        dict(kernel_size=7, padding=3, groups=8),
        dict(kernel_size=(1, 3), padding=(0, 1)),
        dict(kernel_size=1),
        dict(kernel_size=3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_from_conv_computes_the_same(operator, geometry):
    conv = nn.Conv2d(8, 8, **geometry).double().eval()
    conv.weight.requires_grad_(False)
    layer = from_conv(conv, dict(type=operator))
    x = torch.randn(2, 8, 13, 12, dtype=torch.double)
    error = (layer(x) - conv(x)).norm() / conv(x).norm()
    assert error < operator_of(operator).takeover_error
    assert not layer.training
    frozen = [p.requires_grad for n, p in layer.named_parameters() if n != "bias"]
    assert not any(frozen)
    assert layer.weight.data_ptr() != conv.weight.data_ptr()
    if conv.bias is not None:
        assert layer.bias.requires_grad


def test_options_of_the_rule_reach_the_layer():
    conv = nn.Conv2d(4, 4, 3)
    assert from_conv(conv, dict(type="DCLS")).kernel_count == 9
    few = from_conv(conv, dict(type=DCLSConv2d, kernel_count=4, dilated_kernel_size=5))
    assert (few.kernel_count, few.dilated_kernel_size) == (4, (5, 5))
    line = from_conv(nn.Conv2d(4, 4, (3, 5)), dict(type="DCLS2_1d"))
    assert line.kernel_count == 5


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (dict(pattern="layer[2].*.conv2"), {"layer2.0.conv2", "layer2.1.conv2"}),
        (dict(regex=r"layer\d\.1\.conv2"), {"layer1.1.conv2", "layer2.1.conv2"}),
        (dict(pattern="*", stride=2), {"stem", *in_every_block("conv2")}),
        (dict(pattern="*", kernel_size=7), {"stem"}),
        (dict(pattern="*", kernel_size=(7, 7)), {"stem"}),
        (
            dict(pattern=["layer1.*", "head.*"], kernel_size=3, depthwise=False),
            {"layer1.0.conv2", "layer1.1.conv2", "head.conv"},
        ),
        (
            dict(pattern="*", depthwise=True, exclude="layer1.*"),
            {"layer2.0.depthwise", "layer2.1.depthwise"},
        ),
        (dict(pattern="layer*.conv2", last=1), {"layer2.1.conv2"}),
        (dict(pattern="layer*", kernel_size=1), in_every_block("conv1")),
    ],
    # A set has no order that two workers agree on.
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_rules_choose(rule, expected):
    assert learnable(swap_convs(Net(), [dict(rule, conv=dict(type="DK"))])) == expected


def test_the_first_rule_that_means_a_convolution_takes_it():
    model = swap_convs(
        Net(),
        [
            dict(pattern="*.depthwise", conv=dict(type="DKE")),
            SwapRule(dict(type="DK"), pattern="layer1.*", kernel_size=3),
        ],
    )
    assert isinstance(model.layer1[0].depthwise, DKEConv2d)
    assert isinstance(model.layer1[0].conv2, DeformableKernelConv2d)
    assert not isinstance(model.layer2[0].conv2, LearnableConv)


def test_positions_shared_by_rule():
    model = Net().double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    expected = model(x)
    rule = dict(pattern="*", kernel_size=3, conv=dict(type="DCLS"), share_positions=True)
    swap_convs(model, [rule])
    layers = [m for m in model.modules() if isinstance(m, DCLSConv2d)]
    owners = [layer.position_owner for layer in layers]
    # 8 -> 8 dense, depthwise, 8 -> 4.
    assert len(layers) == 9
    assert len(set(owners)) == 3
    torch.testing.assert_close(model(x), expected)
    few = dict(rule, conv=dict(type="DCLS", kernel_count=4))
    shared = swap_convs(Net(), [few])
    assert len({id(p) for n, p in shared.named_parameters() if "positions" in n}) == 3


def test_a_convolution_with_two_names_stays_one():
    model = nn.ModuleDict(dict(a=nn.Conv2d(4, 4, 3)))
    model["b"] = model["a"]
    swap_convs(model, [dict(pattern="b", conv=dict(type="DK"))])
    assert model["a"] is model["b"]
    assert isinstance(model["a"], DeformableKernelConv2d)


def test_the_table_says_what_became_of_what():
    rules = [dict(pattern="layer1.0.*", kernel_size=3, conv=dict(type="DK"))]
    (text,) = captured(lambda: swap_convs(Net(), rules))
    first, second = text.splitlines()[:2]
    assert first.startswith("2 convolutions swapped; largest relative error of a kernel ")
    assert second.startswith("convolution")
    assert "layer1.0.conv2      8 -> 8, 3x3, stride 2x2  DK" in text


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (dict(pattern="layer9.*"), ValueError, "pattern='layer9.*' -> DK matches nothing: no mod"),
        (dict(pattern="*.norm"), ValueError, "not plain convolutions: BatchNorm2d"),
        (dict(pattern="*", kernel_size=9), ValueError, "of 13 convolutions of such names none"),
        (dict(pattern="*", regex="a"), ValueError, r"swaps\[1\]: give a pattern or a regex"),
        (dict(patern="*"), TypeError, r"swaps\[1\]: 'patern' is unknown; did you mean 'pattern'\?"),
        (dict(pattern="*", last=0), ValueError, "last: 0"),
        (dict(pattern="*", conv="DK"), TypeError, "conv: 'DK'"),
        (dict(pattern="*.conv1", conv=dict(type="CoC")), ValueError, "leaves kernels of size 1"),
        (
            dict(pattern="layer2.0.depthwise", conv=dict(type="ConvOrth")),
            ValueError,
            r"ConvOrth cannot replace layer2.0.depthwise \(8 -> 8, 3x3, groups 8\): a plain",
        ),
        (
            dict(pattern="head.conv", conv=dict(type="ConvOrth")),
            ValueError,
            r"ConvOrth cannot replace head.conv \(8 -> 4, 3x3\): .* not orthonormal",
        ),
        (dict(pattern="stem", conv=dict(type="DCLS", dilated_kernel_size=8)), ValueError, "stem"),
        (dict(pattern="stem", conv=dict(type="DK", scop=8)), TypeError, "stem"),
        (dict(pattern="stem", conv=dict(type="Conv3d")), ValueError, "stem"),
        (
            dict(pattern="*", conv=dict(type="DK"), kernel_size=3, share_positions=True),
            ValueError,
            "only DCLS layers share positions",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_swapped_is_named_and_nothing_changes(rule, error, message):
    model = Net()
    before = dict(model.named_modules())
    good = dict(pattern="layer1.0.conv2", conv=dict(type="DK"))
    with pytest.raises(error, match=message):
        swap_convs(model, [good, dict(conv=dict(type="DK")) | rule])
    assert dict(model.named_modules()) == before


def test_all_that_is_refused_is_named_with_what_leaves_it_alone():
    class Standardised(nn.Conv2d):
        pass

    kinds = [Standardised, nn.Conv2d, Standardised, nn.Conv2d]
    model = nn.Sequential(*(kind(4, 4, 3, padding=1) for kind in kinds))
    rule = dict(pattern="*", exclude="3", conv=dict(type="DK"))
    with pytest.raises(
        TypeError, match=r"DK cannot replace 0 .*only unmodified nn\.Conv"
    ) as raised:
        swap_convs(model, [rule])
    assert "2 of 3 convolutions of this rule are refused" in str(raised.value)
    said = str(raised.value).split("exclude=")[1].removesuffix(" leaves alone")
    swap_convs(model, [rule | dict(exclude=literal_eval(said))])
    assert [isinstance(layer, LearnableConv) for layer in model] == [False, True, False, False]


@pytest.mark.parametrize("size", [9, 12])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [(3, dict()), (5, dict(dilation=2)), ((3, 5), dict(groups=2)), (1, dict(stride=2))],
)
def test_adaptive_padding_that_is_fixed_is_taken_over(kernel, options, size):
    Conv2dAdaptivePadding = pytest.importorskip("mmcv.cnn.bricks").Conv2dAdaptivePadding
    model = nn.Sequential(Conv2dAdaptivePadding(4, 4, kernel, **options))
    image = torch.rand(1, 4, size, size + 1)
    expected = model(image)
    swap_convs(model, [dict(pattern="0", conv=dict(type="DK"))])
    assert isinstance(model[0], LearnableConv)
    torch.testing.assert_close(model(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (4, 1), (3, (1, 2))])
def test_adaptive_padding_that_depends_on_the_image_is_refused(kernel, stride):
    Conv2dAdaptivePadding = pytest.importorskip("mmcv.cnn.bricks").Conv2dAdaptivePadding
    conv = Conv2dAdaptivePadding(4, 4, kernel, stride=stride)
    with pytest.raises(TypeError, match="its padding depends on the image's size"):
        swap_convs(nn.Sequential(conv), [dict(pattern="0", conv=dict(type="DK"))])


def test_weight_norm_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    with pytest.raises(TypeError, match=r"only unmodified nn\.Conv"):
        swap_convs(model, [dict(pattern="0", conv=dict(type="DK"))])
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(TypeError, match="has hooks"):
        swap_convs(model, [dict(pattern="0", conv=dict(type="DK"))])
