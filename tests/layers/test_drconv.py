"""DRConv: options and the guide."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlearnconv.layers import DRConv2d


def test_a_guide_handed_in():
    own = DRConv2d(4, 6, 3, padding=1, regions=2, base_weight=False)
    given = DRConv2d(4, 6, 3, padding=1, regions=2, base_weight=False, own_guide=False)
    state = own.state_dict()
    given.load_state_dict({k: v for k, v in state.items() if not k.startswith("guide")})
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(given(x, own.guide(x)), own(x))
    with pytest.raises(ValueError, match="guide: missing"):
        given(x)
    with pytest.raises(ValueError, match="guide: given"):
        own(x, own.guide(x))


def test_the_general_path_equals_the_factorised_one():
    """Two hidden channels per region, the second without influence."""
    own = DRConv2d(4, 6, 3, padding=1, regions=2).double()
    nn.init.normal_(own.filter_scale)
    nn.init.normal_(own.filter_bias)
    general = DRConv2d(4, 6, 3, padding=1, regions=2, hidden_channels=4).double()
    with torch.no_grad():
        for name in ("weight", "bias", "guide_weight", "guide_bias", "filter_bias"):
            getattr(general, name).copy_(getattr(own, name))
        general.filter_scale.zero_()
        general.filter_scale[..., 0] = own.filter_scale[..., 0]
        general.hidden_weight[::2] = own.hidden_weight
        general.hidden_bias[::2] = own.hidden_bias
    x = torch.randn(3, 4, 9, 9, dtype=torch.double)
    torch.testing.assert_close(general(x), own(x))


def test_a_plain_kernel_without_a_base():
    plain = nn.Conv2d(4, 6, 1)
    conv = DRConv2d(4, 6, 1, base_weight=False)
    conv.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(conv(x), plain(x))
    with pytest.raises(RuntimeError, match="base_weight=True"):
        DRConv2d(4, 6, 3, base_weight=False).load_state_dict(nn.Conv2d(4, 6, 3).state_dict())


def test_a_thousand_regions_of_interest():
    """Building every image's filters would take 18.9 MB per image, 18.9 GB in all."""
    from tests.ops.test_dcls import LargestTensor

    conv = DRConv2d(256, 256, 3, padding=1)
    x = torch.randn(1000, 256, 7, 7, requires_grad=True)
    with LargestTensor() as largest:
        conv(x).sum().backward()
    assert largest.numel <= 2 * 2 * x.numel()


def test_every_region_and_the_guide_learn():
    conv = DRConv2d(4, 6, 3, padding=1, regions=3)
    nn.init.normal_(conv.filter_scale)
    x = torch.randn(2, 4, 12, 12)
    conv(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize(
    "wrong", [dict(regions=0), dict(hidden_channels=7), dict(hidden_channels=0)], ids=str
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DRConv2d(4, 4, 3, **wrong)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_the_input_is_padded_once(mode):
    conv = DRConv2d(4, 6, 3, padding=1, padding_mode=mode)
    x = torch.randn(1, 4, 9, 9)
    with mock.patch("mmlearnconv.layers.base.F.pad", wraps=F.pad) as pad:
        conv(x)
    assert sum(call.args[0].shape == x.shape for call in pad.call_args_list) == 1


def test_checkpoints_with_the_former_names_load():
    conv, other = (DRConv2d(4, 6, 3) for _ in range(2))
    former = dict(filter_scale="value", filter_bias="offset")
    other.load_state_dict({former.get(k, k): v for k, v in conv.state_dict().items()})
    x = torch.randn(1, 4, 9, 9)
    assert torch.equal(other(x), conv(x))
