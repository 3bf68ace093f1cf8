import copy

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlearnconv.catalog import names, operator_of
from mmlearnconv.layers import DCLSConv2d, DepthwiseTapsConv2d, LearnableConv
from mmlearnconv.models import ConvNeXt
from mmlearnconv.surgery import fold_convs, folded_config, swap_convs, without_learnable

SMALL = dict(depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))
STATIC = names(static=True, takes_over=False)
# Whose folded kernels are larger than the nominal ones.
GROW = [
    name for name in STATIC if operator_of(name).build(2, 2, 3).dense_kernel().shape[2:] != (3, 3)
]


class Net(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        from mmcv.cnn import build_conv_layer

        self.conv1 = build_conv_layer(cfg, 3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = build_conv_layer(cfg, 8, 6, 5, padding=2)
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
def test_a_folded_network_gives_the_same_outputs_and_fuses(operator):
    model = net(dict(type=operator))
    x = torch.randn(2, 3, 20, 21, dtype=torch.double)
    expected = model(x)
    assert fold_convs(model) is model
    assert not any(isinstance(m, LearnableConv) for m in model.modules())
    assert type(model.conv1) is type(model.conv2) is nn.Conv2d
    assert model.also is model.conv2
    torch.testing.assert_close(model(x), expected)
    fused = fuse_conv_bn(model)
    assert isinstance(fused.bn1, nn.Identity)
    torch.testing.assert_close(fused(x), expected)


def test_fusing_before_folding_leaves_learnable_convolutions_alone():
    model = net(dict(type="DCLS"))
    x = torch.randn(2, 3, 20, 21, dtype=torch.double)
    expected = model(x)
    torch.testing.assert_close(fuse_conv_bn(model)(x), expected)


@pytest.mark.parametrize("operator", names(static=False))
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
    from mmcv.cnn import ConvModule

    module = ConvModule(4, 4, 3, conv_cfg=dict(type="DCLS"), norm_cfg=dict(type="BN")).eval()
    module.turn_on_efficient_conv_bn_eval()
    with pytest.raises(RuntimeError, match=r"efficient_conv_bn_eval reads a plain .* DCLSConv2d"):
        module(torch.randn(1, 4, 8, 8))
    fold_convs(module)
    module(torch.randn(1, 4, 8, 8))


def config(**model):
    return Config(
        dict(
            default_scope="mmdet",
            custom_imports=dict(imports=["mmlearnconv"], allow_failed_imports=False),
            model=dict(
                dict(type="ResNet", depth=18, base_channels=8),
                **model,
            ),
            optim_wrapper=dict(
                constructor="LearnableConvOptimWrapperConstructor",
                paramwise_cfg=dict(base="LearningRateDecayOptimizerConstructor", decay_rate=0.9),
            ),
        )
    )


def assert_loads_and_gives_the_same(model, folded):
    model.load_state_dict(folded.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for network in (model, folded):
        network.eval()
    for a, b in zip(model(x), folded(x), strict=True):
        torch.testing.assert_close(a, b)


SWAP = dict(
    type="SwapConv",
    target="ResNet",
    swaps=[dict(pattern="*", kernel_size=3, conv=dict(type="CoC"))],
)


@pytest.mark.parametrize("model", [dict(conv_cfg=dict(type="CoC")), SWAP], ids=["conv_cfg", "swap"])
def test_the_config_of_a_same_sized_model_is_the_stock_one(model):
    cfg = config(**model)
    with DefaultScope.overwrite_default_scope("mmdet"):
        folded = fold_convs(MODELS.build(cfg.model))
        plain, needs_package = folded_config(cfg, folded)
        assert not needs_package
        assert plain.model.type == "ResNet"
        assert "mmlearnconv" not in plain.pretty_text
        assert "Learnable" not in plain.pretty_text
        assert plain.optim_wrapper.constructor == "LearningRateDecayOptimizerConstructor"
        stock = MODELS.build(plain.model)
    assert_loads_and_gives_the_same(stock, folded)


@pytest.mark.parametrize("operator", GROW)
@pytest.mark.parametrize("swap", [False, True])
def test_the_config_of_a_model_whose_kernels_grew_builds_it(operator, swap):
    conv = dict(type=operator)
    model = SWAP | dict(swaps=[dict(pattern="*", kernel_size=3, conv=conv)])
    cfg = config(**model if swap else dict(conv_cfg=conv))
    with DefaultScope.overwrite_default_scope("mmdet"):
        folded = fold_convs(MODELS.build(cfg.model))
        grown, needs_package = folded_config(cfg, folded)
        assert needs_package
        assert grown.model.type == "SwapConv"
        built = MODELS.build(grown.model)
    assert not any(isinstance(m, LearnableConv) for m in built.modules())
    assert_loads_and_gives_the_same(built, folded)


def folded_convnext():
    backbone = ConvNeXt(SMALL, conv_cfg=dict(type="DCLS"), layer_scale_init_value=1.0).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
    return fold_convs(backbone), x, expected


def test_a_folded_dcls_convnext_exports():
    backbone, x, expected = folded_convnext()
    exported = torch.export.export(backbone, (x,))
    for a, b in zip(exported.module()(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_folded_dcls_convnext_runs_in_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    backbone, x, expected = folded_convnext()
    path = tmp_path / "backbone.onnx"
    torch.onnx.export(backbone, (x,), str(path), dynamo=True)
    session = onnxruntime.InferenceSession(str(path))
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taps", ["exact", "rounded"])
def test_depthwise_layers_fold_into_lists_of_taps(taps):
    conv = dict(type="DCLS")
    model = ConvNeXt(SMALL, conv_cfg=conv).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    cfg = Config(dict(model=dict(type="ConvNeXt", arch=SMALL, conv_cfg=conv)))
    if taps == "rounded":
        rounded = copy.deepcopy(model)
        for layer in rounded.modules():
            if isinstance(layer, DCLSConv2d):
                layer.positions.data.round_()
        expected = rounded(x)
    folded = fold_convs(model, taps)
    sparse = [m for m in folded.modules() if isinstance(m, DepthwiseTapsConv2d)]
    assert len(sparse) == 4
    assert all(m.weight.shape[1] == (34 if taps == "rounded" else 136) for m in sparse)
    for a, b in zip(folded(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    grown, needs_package = folded_config(cfg, folded, taps)
    assert needs_package
    assert_loads_and_gives_the_same(MODELS.build(grown.model), folded)


def test_an_unknown_kind_of_taps_is_named():
    with pytest.raises(ValueError, match="taps: 'near'; allowed are"):
        fold_convs(net(dict(type="DCLS")), "near")


def test_a_model_s_config_without_what_is_learnable():
    """At any depth, and with the options that need it."""
    drconv = dict(type="DRConv", regions=4)
    learnable = dict(
        type="SwapConv",
        target="MaskRCNN",
        swaps=[dict(pattern="*", conv=dict(type="DCLS"))],
        backbone=dict(type="ShuffleNetV2", pointwise_conv_cfg=drconv, share_guide=True),
        neck=dict(type="LearnableFPN", output_conv_cfg=drconv, output_levels=[0]),
        roi_head=dict(mask_head=dict(conv_cfg=dict(type="CoCConv2d"))),
        rpn_head=dict(conv_cfg=dict(type="ConvWS")),
    )
    assert without_learnable(learnable) == dict(
        type="MaskRCNN",
        backbone=dict(type="ShuffleNetV2", pointwise_conv_cfg=None),
        neck=dict(type="FPN"),
        roi_head=dict(mask_head=dict(conv_cfg=None)),
        rpn_head=dict(conv_cfg=dict(type="ConvWS")),
    )
