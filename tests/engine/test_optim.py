import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlearnconv.layers import DCLSConv2d
from mmlearnconv.models import ConvNeXt

ADAMW = dict(type="AdamW", lr=1e-3, weight_decay=0.05)


def build(model, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            constructor="LearnableConvOptimWrapperConstructor",
            optimizer=dict(ADAMW),
            paramwise_cfg=paramwise_cfg,
        ),
    ).optimizer


def settings(optimizer, model):
    """Learning rate and weight decay by parameter name; every parameter in exactly one group."""
    names = {p: name for name, p in model.named_parameters()}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(names)
    return {
        names[p]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_layers_get_what_they_ask_for():
    model = nn.Sequential(DCLSConv2d(2, 2, 3, interpolation="gauss"), nn.Conv2d(2, 2, 3))
    by_name = settings(build(model), model)
    assert by_name["0.positions"] == (pytest.approx(5e-3), 0)
    assert by_name["0.width"] == (1e-3, 0)
    assert by_name["0.weight"] == by_name["1.weight"] == by_name["1.bias"] == (1e-3, 0.05)


def test_composes_with_mmengine_s_paramwise_rules():
    model = nn.Sequential(nn.BatchNorm2d(2), DCLSConv2d(2, 2, 3))
    rules = dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"1.positions": dict(lr_mult=0.5)}
    )
    by_name = settings(build(model, **rules), model)
    assert by_name["0.weight"] == (1e-3, 0)
    assert by_name["1.bias"] == (1e-3, 0)
    assert by_name["1.positions"] == (pytest.approx(2.5e-3), 0)


@pytest.mark.parametrize("share", [True, False])
def test_composes_with_layer_decay(share):
    pytest.importorskip("mmdet.engine.optimizers")
    model = nn.Module()
    small = dict(depths=(1, 1, 4, 1), channels=(4, 4, 4, 4))
    model.backbone = ConvNeXt(small, conv_cfg=dict(type="DCLS"), share_positions=share)
    optimizer = build(
        model,
        base="mmdet.LearningRateDecayOptimizerConstructor",
        decay_rate=0.9,
        decay_type="layer_wise",
        num_layers=6,
    )
    by_name = settings(optimizer, model)
    # Layer ids count from the input; the last of num_layers + 2 has the full rate.
    for stage, block, layer in ((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 0, 6)):
        conv = f"backbone.stages.{stage}.{block}.depthwise_conv"
        rate = 1e-3 * 0.9 ** (7 - layer)
        assert by_name[f"{conv}.weight"] == (pytest.approx(rate), 0.05)
        assert by_name[f"{conv}.bias"] == (pytest.approx(rate), 0)
        assert by_name[f"{conv}.positions"] == (pytest.approx(5 * rate), 0)
    assert ("backbone.stages.2.3.depthwise_conv.positions" in by_name) == (not share)
    for group in optimizer.param_groups:
        assert len(group["param_names"]) == len(group["params"])
