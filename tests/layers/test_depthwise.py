import pytest
import torch
from mmcv.cnn import ConvModule, build_conv_layer
from torch import nn

from mmlearnconv.layers import DCLSConv2d, DepthwiseConv2d, DepthwiseTapsConv2d


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=17, padding=8),
        dict(kernel_size=31, padding="same"),
        dict(kernel_size=(4, 7), padding="same"),
        dict(kernel_size=5, padding="valid", stride=2),
        dict(kernel_size=7, padding=(6, 9), dilation=(2, 3), bias=False),
        dict(kernel_size=5, padding=2, padding_mode="reflect"),
    ],
    ids=str,
)
def test_it_is_a_plain_depthwise_convolution(options):
    ours = build_conv_layer(dict(type="DepthwiseConv2d"), 6, 6, groups=6, **options)
    plain = nn.Conv2d(6, 6, groups=6, **options)
    assert isinstance(ours, DepthwiseConv2d)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 33, 34)
    found, expected = ours(x), plain(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x[0]), plain(x[0]), rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


def test_over_a_network_others_stay_plain():
    cfg = dict(type="DepthwiseConv2d")
    assert type(build_conv_layer(cfg, 6, 6, 3)) is nn.Conv2d
    module = ConvModule(6, 6, 7, padding=3, groups=6, conv_cfg=cfg, norm_cfg=dict(type="BN"))
    assert module(torch.randn(2, 6, 9, 9)).shape == (2, 6, 9, 9)
    with pytest.raises(ValueError, match="groups: 2, with in_channels=6"):
        DepthwiseConv2d(6, 6, 3, groups=2)


@pytest.mark.parametrize("options", [{}, dict(stride=2, padding=0, dilation=2), dict(bias=False)])
def test_a_list_of_taps_is_the_layer(options):
    layer = DCLSConv2d(
        **dict(dict(padding=3, groups=5), **options, in_channels=5, out_channels=5, kernel_size=7)
    )
    layer.positions.data.mul_(20)
    layer.clamp_parameters()
    x = torch.randn(2, 5, 40, 41)
    exact = layer.to_taps()
    assert isinstance(exact, DepthwiseTapsConv2d)
    torch.testing.assert_close(exact(x), layer.to_conv()(x), rtol=1e-4, atol=1e-5)
    rounded = layer.to_taps(rounded=True)
    layer.positions.data.round_()
    assert rounded.weight.shape == (5, 34)
    torch.testing.assert_close(rounded(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(groups=1), dict(padding_mode="reflect"), dict(interpolation="gauss")]
)
def test_layers_without_a_list_say_so(options):
    options = dict(padding=1, groups=4) | options
    with pytest.raises(ValueError, match="only depthwise bilinear layers"):
        DCLSConv2d(4, 4, 3, **options).to_taps()
