import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmlearnconv.catalog import operator_names, operator_of
from mmlearnconv.layers import DCLSConv2d, DepthwiseTapsConv2d, LearnableConv
from mmlearnconv.models import ConvNeXt, folded_config, without_learnable
from mmlearnconv.surgery import fold_convs

SMALL = dict(depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))
STATIC = operator_names(static=True, takes_over=False)
# Whose folded kernels are larger than the nominal ones.
GROW = [
    name for name in STATIC if operator_of(name).build(2, 2, 3).dense_kernel().shape[2:] != (3, 3)
]


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
