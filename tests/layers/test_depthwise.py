import pytest
import torch
from torch import nn

from mmlearnconv.layers import DepthwiseConv2d
from mmlearnconv.surgery import build_conv


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
    ours = build_conv(dict(type="DepthwiseConv2d"), 6, 6, groups=6, **options)
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
    assert type(build_conv(cfg, 6, 6, 3)) is nn.Conv2d
    ConvModule = pytest.importorskip("mmcv.cnn").ConvModule
    module = ConvModule(6, 6, 7, padding=3, groups=6, conv_cfg=cfg, norm_cfg=dict(type="BN"))
    assert module(torch.randn(2, 6, 9, 9)).shape == (2, 6, 9, 9)
    with pytest.raises(ValueError, match="groups: 2, with in_channels=6"):
        DepthwiseConv2d(6, 6, 3, groups=2)
