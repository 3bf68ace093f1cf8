import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlearnconv.engine import BFloat16OptimWrapper
from mmlearnconv.layers import DCLSConv2d, DeformableKernelConv2d
from mmlearnconv.models import ConvNeXt
from tests.layers.test_policy import settings

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


def test_the_config_has_the_last_word():
    model = nn.Sequential(DCLSConv2d(2, 2, 3), DeformableKernelConv2d(2, 2, 3))
    by_name = settings(
        build(
            model,
            optim_policy={
                "positions": dict(lr_mult=2.0),
                "offset_weight": dict(lr_mult=0.5),
                "DeformableKernelConv2d.offset_weight": dict(lr_mult=0.1, decay_mult=0.5),
                "offset_bias": {},
            },
        ),
        model,
    )
    assert by_name["0.positions"] == (pytest.approx(2e-3), 0.05)
    assert by_name["1.offset_weight"] == (pytest.approx(1e-4), pytest.approx(0.025))
    assert by_name["1.offset_bias"] == (1e-3, 0.05)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (dict(position=dict(lr_mult=2)), "'position' is not a parameter .* 'positions'"),
        (
            dict(positions=dict(lr=2)),
            r"'positions' has \['lr'\]; allowed are lr_mult and decay_mult",
        ),
    ],
)
def test_a_wrong_policy_is_named(policy, message):
    model = nn.Sequential(DCLSConv2d(2, 2, 3))
    with pytest.raises(ValueError, match=message):
        build(model, optim_policy=policy)


def test_neglected_policies_are_told_once(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level("INFO")
    try:
        for constructor in (
            "DefaultOptimWrapperConstructor",
            "LearnableConvOptimWrapperConstructor",
        ):
            caplog.clear()
            model = nn.Sequential(DCLSConv2d(2, 2, 3), DeformableKernelConv2d(2, 2, 3))
            cfg = dict(type="OptimWrapper", constructor=constructor, optimizer=dict(ADAMW))
            wrapper = build_optim_wrapper(model, cfg)
            for _ in range(2):
                wrapper.update_params(model(torch.randn(1, 2, 9, 9)).sum())
            said = [record.getMessage() for record in caplog.records]
            told = [text for text in said if "without the papers' multipliers" in text]
            assert len(told) == (constructor == "DefaultOptimWrapperConstructor")
            for text in told:
                assert "DCLSConv2d.positions (lr_mult=5 decay_mult=0)" in text
                assert "DeformableKernelConv2d.offset_weight (lr_mult=0.01)" in text
    finally:
        logger.removeHandler(caplog.handler)


def test_bfloat16_leaves_a_detector_s_heads_in_float32():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = DCLSConv2d(3, 4, 3)
            self.head = nn.Conv2d(4, 1, 1)

        def extract_feat(self, x):
            y = self.backbone(x)
            self.seen = [y.dtype]
            return (y, [y])

        def forward(self, x):
            features, (again,) = self.extract_feat(x)
            self.seen += [features.dtype, again.dtype, self.head(features).dtype]
            return self.head(features)

    model = Detector()
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        wrapper.update_params(model(torch.randn(1, 3, 8, 8)).sum())
    assert model.seen == [torch.bfloat16] + [torch.float32] * 3
    assert "extract_feat" not in vars(model)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    with wrapper.optim_context(plain):
        assert plain(torch.randn(1, 3, 8, 8)).dtype == torch.bfloat16


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
