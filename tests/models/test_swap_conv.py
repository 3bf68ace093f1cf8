import pytest
import torch
from mmcv.ops import DeformConv2dPack
from mmengine.registry import MODELS
from torch.nn import functional as F

from mmlearnconv.surgery import swap_convs
from tests.surgery.test_swap import Net, in_every_block

DEFORMABLE = dict(type="DCN", deform_groups=1)


def test_a_config_may_put_mmcv_s_deformable_convolution_in():
    swaps = [dict(pattern="layer*.conv2", conv=DEFORMABLE)]
    torch.manual_seed(1)
    model = MODELS.build(dict(type="SwapConv", target=Net, swaps=swaps)).eval()
    torch.manual_seed(1)
    assert torch.equal(model.layer1[0].conv2.weight, Net().layer1[0].conv2.weight)
    found = {n for n, m in model.named_modules() if isinstance(m, DeformConv2dPack)}
    assert found == in_every_block("conv2")
    plain = Net().eval()
    left, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(".conv_offset." in key for key in left)
    assert not unexpected
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), plain(x))


def window_of(model, **window):
    conv = dict(type="Conv2d", **window)
    swaps = [dict(pattern="layer*.conv2", conv=conv)]
    torch.manual_seed(1)
    return MODELS.build(dict(type="SwapConv", target=model, swaps=swaps)).eval()


def test_a_config_may_put_a_plain_convolution_of_another_dilation_in():
    model = window_of(Net, dilation=2)
    torch.manual_seed(1)
    plain = Net().eval()
    convs = dict(model.named_modules())
    for name in in_every_block("conv2"):
        x = torch.randn(1, convs[name].in_channels, 9, 8)
        before = dict(plain.named_modules())[name]
        expected = F.conv2d(
            x,
            before.weight,
            before.bias,
            before.stride,
            padding=2,
            dilation=2,
            groups=before.groups,
        )
        torch.testing.assert_close(convs[name](x), expected)
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == plain(x).shape


def test_a_config_may_put_a_plain_convolution_of_another_size_in():
    model = window_of(Net, kernel_size=5)
    for name in in_every_block("conv2"):
        conv = model.get_submodule(name)
        assert conv.weight.shape[2:] == (5, 5)
        assert conv.padding == (2, 2)
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == Net().eval()(x).shape
    # As large as the kernels that a plain layer draws: uniform below 1 / sqrt(fan in).
    bound = conv.weight[0].numel() ** -0.5
    assert 0.9 * bound < conv.weight.abs().max() <= bound


def test_another_window_is_refused_where_it_cannot_be():
    with pytest.raises(ValueError, match="no padding keeps the size"):
        window_of(Net, kernel_size=4)
    swaps = [dict(pattern="layer*.conv2", conv=dict(type="DKE", kernel_size=5))]
    with pytest.raises(ValueError, match=r"'kernel_size': 5.*a swap keeps both"):
        MODELS.build(dict(type="SwapConv", target=Net, swaps=swaps))
    # swap_convs promises the same function.
    with pytest.raises(ValueError, match="a swap keeps both"):
        swap_convs(Net(), [dict(pattern="layer*.conv2", conv=dict(type="Conv2d", dilation=2))])


def test_what_a_deformable_convolution_cannot_replace_is_named():
    swaps = [dict(pattern="layer*.depthwise", conv=DEFORMABLE)]
    with pytest.raises(ValueError, match=r"DCN cannot replace layer1\.0\.depthwise .*bias"):
        MODELS.build(dict(type="SwapConv", target=Net, swaps=swaps))
    # swap_convs promises the same function, so it accepts only learnable layers.
    with pytest.raises(ValueError, match="builds a DeformConv2dPack, not a learnable one"):
        swap_convs(Net(), [dict(pattern="layer*.conv2", conv=DEFORMABLE)])
