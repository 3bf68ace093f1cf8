import pytest
import torch
from torch import nn

from mmlearnconv.catalog import operator_names
from mmlearnconv.layers import LearnableConv
from mmlearnconv.surgery import build_conv, fold_convs, swap_convs

STATIC = operator_names(static=True, takes_over=False)


class Net(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        cfg = cfg or dict(type="Conv2d")
        self.conv1 = build_conv(cfg, 3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = build_conv(cfg, 8, 6, 5, padding=2)
        self.also = self.conv2

    def forward(self, x):
        return self.conv2(self.bn1(self.conv1(x)).relu())


def net(cfg):
    model = Net(cfg).double().eval()
    nn.init.uniform_(model.bn1.running_mean)
    nn.init.uniform_(model.bn1.running_var, 0.5, 2)
    nn.init.uniform_(model.bn1.weight, 0.5, 2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("operator", STATIC)
def test_a_folded_network_gives_the_same_outputs(operator):
    model = net(dict(type=operator))
    x = torch.randn(2, 3, 20, 21, dtype=torch.double)
    expected = model(x)
    assert fold_convs(model) is model
    assert not any(isinstance(m, LearnableConv) for m in model.modules())
    assert type(model.conv1) is type(model.conv2) is nn.Conv2d
    assert model.also is model.conv2
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("operator", STATIC)
def test_a_folded_network_fuses(operator):
    fuse_conv_bn = pytest.importorskip("mmcv.cnn.utils").fuse_conv_bn
    model = fold_convs(net(dict(type=operator)))
    x = torch.randn(2, 3, 20, 21, dtype=torch.double)
    expected = model(x)
    fused = fuse_conv_bn(model)
    assert isinstance(fused.bn1, nn.Identity)
    torch.testing.assert_close(fused(x), expected)


def test_fusing_before_folding_leaves_learnable_convolutions_alone():
    fuse_conv_bn = pytest.importorskip("mmcv.cnn.utils").fuse_conv_bn
    model = net(dict(type="DCLS"))
    x = torch.randn(2, 3, 20, 21, dtype=torch.double)
    expected = model(x)
    torch.testing.assert_close(fuse_conv_bn(model)(x), expected)


@pytest.mark.parametrize("operator", operator_names(static=False))
def test_dynamic_layers_are_refused_by_name_and_nothing_changes(operator):
    model = nn.Sequential(Net(dict(type="CoC")), Net(dict(type=operator)))
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match="2 of 4 learnable") as error:
        fold_convs(model)
    assert f"\n1.conv1: {type(model[1].conv1).__name__}: " in str(error.value)
    assert "depends on the input" in str(error.value)
    assert dict(model.named_modules()) == before


def test_a_layer_by_itself_folds():
    layer = Net(dict(type="DCLS")).conv1
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(fold_convs(layer)(x), layer(x))


def test_there_and_back_is_the_plain_network():
    model = net(None)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fold_convs(swap_convs(model, [dict(pattern="*", conv=dict(type="CoC"))]))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_efficient_conv_bn_eval_is_refused_with_the_reason():
    ConvModule = pytest.importorskip("mmcv.cnn").ConvModule
    module = ConvModule(4, 4, 3, conv_cfg=dict(type="DCLS"), norm_cfg=dict(type="BN")).eval()
    module.turn_on_efficient_conv_bn_eval()
    with pytest.raises(RuntimeError, match=r"efficient_conv_bn_eval reads a plain .* DCLSConv2d"):
        module(torch.randn(1, 4, 8, 8))
    fold_convs(module)
    module(torch.randn(1, 4, 8, 8))


def test_an_unknown_kind_of_taps_is_named():
    with pytest.raises(ValueError, match="taps: 'near'; allowed are"):
        fold_convs(net(dict(type="DCLS")), "near")
