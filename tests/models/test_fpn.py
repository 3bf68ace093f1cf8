import pytest
import torch
from mmdet.models.necks import FPN
from torch import nn

from mmlearnconv.layers import DRConv2d
from mmlearnconv.models import LearnableFPN

CHANNELS = dict(in_channels=[8, 16, 32], out_channels=8, num_outs=5, add_extra_convs="on_output")


def maps():
    return [torch.randn(1, c, 32 // 2**i, 32 // 2**i) for i, c in enumerate((8, 16, 32))]


def test_chosen_levels():
    neck = LearnableFPN(
        **CHANNELS,
        output_conv_cfg=dict(type="DRConv", regions=2),
        output_levels=(0, 4),
        lateral_conv_cfg=dict(type="DRConv", regions=2),
        lateral_levels=(1,),
    )
    kinds = [type(m.conv) for m in neck.fpn_convs]
    assert kinds == [DRConv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d, DRConv2d]
    assert [type(m.conv) for m in neck.lateral_convs] == [nn.Conv2d, DRConv2d, nn.Conv2d]
    assert [m.stride for m in neck.fpn_convs] == [m.stride for m in FPN(**CHANNELS).fpn_convs]
    assert [tuple(y.shape[2:]) for y in neck(maps())] == [
        (32, 32),
        (16, 16),
        (8, 8),
        (4, 4),
        (2, 2),
    ]


def test_a_plain_checkpoint_gives_the_same_features():
    plain = FPN(**CHANNELS)
    plain.init_weights()
    neck = LearnableFPN(**CHANNELS, output_conv_cfg=dict(type="DRConv"), output_levels=(0, 1))
    neck.load_state_dict(plain.state_dict())
    inputs = maps()
    for ours, expected in zip(neck(inputs), plain(inputs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_level_that_is_not_there():
    with pytest.raises(ValueError, match=r"output_levels: \[5\]"):
        LearnableFPN(**CHANNELS, output_conv_cfg=dict(type="DRConv"), output_levels=[5])
