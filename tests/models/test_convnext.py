import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlearnconv.layers import DCLSConv2d
from mmlearnconv.models import ConvNeXt

SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 24, 32))
DCLS = dict(type="DCLS")


def dcls_layers(model):
    return [m for m in model.modules() if isinstance(m, DCLSConv2d)]


@pytest.mark.parametrize(
    ("arch", "millions", "count"),
    [("tiny", "28.6", 34), ("small", "50.2", 40), ("base", "88.6", 40)],
)
@pytest.mark.parametrize("conv_cfg", [None, DCLS])
def test_parameters_are_the_published_ones(arch, millions, count, conv_cfg):
    model = ConvNeXt(arch, conv_cfg=conv_cfg, out_indices=(3,))
    width = model.norm3.weight.numel()
    total = sum(p.numel() for p in model.parameters()) + (width + 1) * 1000
    assert f"{total / 1e6:.1f}" == millions
    assert {layer.kernel_count for layer in dcls_layers(model)} == ({count} if conv_cfg else set())


def test_feature_maps():
    model = ConvNeXt(SMALL, conv_cfg=DCLS, out_indices=(1, 3))
    outputs = model(torch.randn(2, 3, 64, 96))
    assert [tuple(y.shape) for y in outputs] == [(2, 16, 8, 12), (2, 32, 2, 3)]
    # mmcv's RoIAlign reads a map's memory as NCHW, whatever its strides say.
    assert all(y.is_contiguous() for y in outputs)


def test_no_parameter_without_a_gradient():
    model = ConvNeXt(SMALL, conv_cfg=DCLS, out_indices=(0, 2))
    sum(y.square().sum() for y in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mmdet_s_layer_decay_knows_the_layers():
    """The stem learns slowest, the last stage fastest."""
    model = nn.Module()
    model.backbone = ConvNeXt(SMALL)
    cfg = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1.0),
        constructor="mmdet.LearningRateDecayOptimizerConstructor",
        paramwise_cfg=dict(decay_rate=0.5, decay_type="layer_wise", num_layers=6),
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    backbone = model.backbone
    stem = rates[backbone.downsample_layers[0][0].weight]
    last = rates[backbone.stages[3][-1].pointwise_conv1.weight]
    assert stem == min(rates.values())
    assert stem < rates[backbone.stages[1][0].pointwise_conv1.weight] < last


def test_names_are_mmpretrain_s():
    names = set(ConvNeXt(SMALL).state_dict())
    for name in (
        "downsample_layers.0.0.weight",
        "downsample_layers.0.1.bias",
        "downsample_layers.3.1.weight",
        "stages.2.1.depthwise_conv.weight",
        "stages.2.1.norm.bias",
        "stages.2.1.pointwise_conv1.weight",
        "stages.2.1.pointwise_conv2.weight",
        "stages.2.1.gamma",
        "norm3.weight",
    ):
        assert name in names


def test_positions_are_shared_within_a_stage_by_option():
    shared = ConvNeXt(SMALL, conv_cfg=DCLS)
    assert len({layer.position_owner for layer in dcls_layers(shared)}) == 4
    apart = ConvNeXt(SMALL, conv_cfg=DCLS, share_positions=False)
    assert len({layer.position_owner for layer in dcls_layers(apart)}) == 7


@pytest.mark.parametrize("share", [True, False])
def test_a_plain_checkpoint_gives_the_same_features(share):
    plain = ConvNeXt(SMALL, layer_scale_init_value=1.0)
    plain.init_weights()
    for m in plain.modules():
        if isinstance(m, nn.Conv2d) and m.groups > 1:
            nn.init.normal_(m.weight, std=0.1)
    ours = ConvNeXt(
        SMALL,
        conv_cfg=DCLS | dict(kernel_count=49),
        share_positions=share,
        layer_scale_init_value=1,
    )
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(ours(x), plain(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pretrained_init_cfg(tmp_path):
    plain = ConvNeXt(SMALL)
    path = tmp_path / "plain.pth"
    torch.save(dict(state_dict={f"backbone.{k}": v for k, v in plain.state_dict().items()}), path)
    ours = ConvNeXt(
        SMALL,
        conv_cfg=DCLS | dict(kernel_count=49),
        init_cfg=dict(type="Pretrained", checkpoint=str(path), prefix="backbone."),
    )
    ours.init_weights()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x)[3], plain(x)[3], rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_nothing():
    plain = ConvNeXt(SMALL, conv_cfg=DCLS, layer_scale_init_value=1.0)
    saving = ConvNeXt(SMALL, conv_cfg=DCLS, layer_scale_init_value=1.0, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for model in (plain, saving):
        model(x)[3].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad if a.grad is not None else None, b.grad)


@pytest.mark.parametrize("frozen", [-1, 0, 1, 3])
def test_frozen_stages(frozen):
    model = ConvNeXt(SMALL, conv_cfg=DCLS, drop_path_rate=0.5, frozen_stages=frozen).train()
    stem = list(model.downsample_layers[0].parameters())
    assert all(p.requires_grad == (frozen < 0) for p in stem)
    for i, (down, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True), 1):
        assert all(p.requires_grad == (i > frozen) for p in stage.parameters())
        assert stage.training == (i > frozen)
        if i > 1:
            assert all(p.requires_grad == (i > frozen) for p in down.parameters())


def test_drop_path_rises_linearly():
    model = ConvNeXt(SMALL, drop_path_rate=0.6)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage
    ]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.6, 7))


@pytest.mark.parametrize(
    "wrong",
    [dict(arch="huge"), dict(out_indices=(4,)), dict(out_indices=()), dict(frozen_stages=5)],
    ids=str,
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConvNeXt(**dict(arch=SMALL) | wrong)


def test_shared_positions_are_one_parameter_for_stock_training():
    """mmengine's own constructor and averaging, which treat aliases as separate parameters."""
    from mmengine.model import ExponentialMovingAverage
    from mmengine.optim import build_optim_wrapper

    model = ConvNeXt(SMALL, conv_cfg=DCLS)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="SGD", lr=0.1, weight_decay=0.01),
            paramwise_cfg=dict(custom_keys={"positions": dict(decay_mult=0.0)}),
        ),
    )
    names = [name for name, _ in model.named_parameters() if name.endswith("positions")]
    assert len(names) == 4
    averaged = ExponentialMovingAverage(model, momentum=0.25, update_buffers=True)
    averaged.update_parameters(model)  # The first time copies.
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    wrapper.update_params(sum(y.square().sum() for y in model(torch.randn(1, 3, 64, 64))))
    averaged.update_parameters(model)
    for name in names:
        expected = torch.lerp(before[name], model.get_parameter(name), 0.25)
        torch.testing.assert_close(averaged.module.get_parameter(name), expected)
    copied = dcls_layers(averaged.module)
    assert len({layer.position_owner for layer in copied}) == 4
    assert not {layer.position_owner for layer in copied} & set(dcls_layers(model))
