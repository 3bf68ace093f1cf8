"""The papers' backbones: sizes, outputs, freezing, public checkpoints' names."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmlearnconv.analysis import count_complexity
from mmlearnconv.catalog import operator_names
from mmlearnconv.layers import DRConv2d, LearnableConv

# Backbone, its outputs' channels and strides, and how many stages it has.
BACKBONES = {
    "ResNetDW": ([256, 512, 1024, 2048], [4, 8, 16, 32], 4),
    "MobileNetV1": ([128, 256, 512, 1024], [4, 8, 16, 32], 5),
    "ShuffleNetV2": ([116, 232, 464], [8, 16, 32], 4),
    "DetNASNet": ([64, 160, 320, 640], [4, 8, 16, 32], 4),
    "AlexNet": ([256], [16], 2),
    "TwoBranchNet": ([128, 128], [8, 8], 2),
}
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def build(name, **options):
    return MODELS.build(dict(type=name, **options))


@every_backbone
def test_outputs(name):
    channels, strides, _ = BACKBONES[name]
    maps = build(name).eval()(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == channels
    if name != "AlexNet":  # Whose pooling has no padding.
        assert [m.shape[2:] for m in maps] == [(64 // s, 96 // s) for s in strides]


@every_backbone
def test_early_outputs_leave_later_stages_out(name):
    net = build(name, out_indices=(0,))
    (net(torch.randn(2, 3, 64, 64))[0]).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@every_backbone
def test_frozen_stages(name):
    stages = BACKBONES[name][2]
    trained = []
    for frozen in range(-1, stages + 1):
        net = build(name, frozen_stages=frozen, out_indices=(stages - 1,)).train()
        trained.append(sum(p.requires_grad for p in net.parameters()))
        still = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and not m.training]
        for norm in still:
            assert not norm.weight.requires_grad
    assert trained == sorted(trained, reverse=True)
    assert trained[0] > trained[1]
    assert trained[-1] == 0


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "AlexNet"])
def test_norm_eval(name):
    net = build(name, norm_eval=True).train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("operator", operator_names(baselines=False, takes_over=False))
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "TwoBranchNet"])
def test_conv_cfg(name, operator):
    net = build(name, conv_cfg=dict(type=operator), out_indices=(0,))
    assert any(isinstance(m, LearnableConv) for m in net.modules())
    sum(m.sum() for m in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in net.parameters())


@every_backbone
@pytest.mark.parametrize("wrong", [dict(out_indices=(7,)), dict(frozen_stages=9)])
def test_wrong_arguments_are_named(name, wrong):
    (argument,) = wrong
    with pytest.raises(ValueError, match=f"{argument}: .*allowed are"):
        build(name, **wrong)


@pytest.mark.parametrize(
    ("name", "options", "classifier", "parameters"),
    [
        # What torchvision's documentation gives for its networks, of the same names.
        ("ShuffleNetV2", dict(widen_factor=0.5, out_indices=(3,)), 1024, 1366792),
        ("ShuffleNetV2", dict(widen_factor=1.0, out_indices=(3,)), 1024, 2278604),
        ("ShuffleNetV2", dict(widen_factor=1.5, out_indices=(3,)), 1024, 3503624),
        ("ShuffleNetV2", dict(widen_factor=2.0, out_indices=(3,)), 2048, 7393996),
    ],
)
def test_published_parameters(name, options, classifier, parameters):
    net = build(name, **options)
    assert sum(p.numel() for p in net.parameters()) + 1000 * (classifier + 1) == parameters


@pytest.mark.parametrize(
    ("name", "options", "checkpoint"),
    [
        (
            "ShuffleNetV2",
            dict(out_indices=(3,)),
            {
                "conv1.0.weight": (24, 3, 3, 3),
                "conv1.1.running_mean": (24,),
                "stage2.0.branch1.0.weight": (24, 1, 3, 3),
                "stage2.0.branch1.2.weight": (58, 24, 1, 1),
                "stage2.0.branch2.3.weight": (58, 1, 3, 3),
                "stage4.3.branch2.5.weight": (232, 232, 1, 1),
                "stage4.3.branch2.6.running_var": (232,),
                "conv5.0.weight": (1024, 464, 1, 1),
            },
        ),
        (
            "MobileNetV1",
            {},
            {
                "conv_stem.weight": (32, 3, 3, 3),
                "bn1.weight": (32,),
                "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
                "blocks.3.5.bn1.weight": (512,),
                "blocks.4.1.conv_pw.weight": (1024, 1024, 1, 1),
                "blocks.4.1.bn2.running_mean": (1024,),
            },
        ),
        (
            "AlexNet",
            {},
            {
                "features.0.weight": (64, 3, 11, 11),
                "features.3.bias": (192,),
                "features.6.weight": (384, 192, 3, 3),
                "features.8.weight": (256, 384, 3, 3),
                "features.10.weight": (256, 256, 3, 3),
            },
        ),
    ],
    ids=["torchvision ShuffleNetV2", "timm MobileNetV1", "torchvision AlexNet"],
)
@pytest.mark.parametrize("conv_cfg", [None, dict(type="DRConv")], ids=["plain", "DRConv"])
def test_public_checkpoints_load(name, options, checkpoint, conv_cfg, tmp_path):
    """With ``init_cfg``, into plain networks and learnable ones, which then compute the same."""
    plain = build(name, **options).eval()
    state = plain.state_dict()
    for key, shape in checkpoint.items():
        assert tuple(state[key].shape) == shape, key
    for value in state.values():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.0)
    torch.save(dict(state) | {"fc.weight": torch.zeros(1000, 1024)}, tmp_path / "public.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "public.pth"))
    net = build(name, **options, conv_cfg=conv_cfg, init_cfg=init_cfg)
    net.init_weights()
    x = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(net.eval()(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_detnas_has_its_multiply_adds():
    """About 300 M at 224x224, says its name."""
    counts = count_complexity(build("DetNASNet"), (224, 224))
    assert counts.macs / 1e6 == pytest.approx(300, rel=0.05)


def test_resnet_dw_strides_where_its_style_says():
    for style, strides in (("pytorch", (1, 2)), ("caffe", (2, 1))):
        block = build("ResNetDW", style=style).layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
    with pytest.raises(ValueError, match="style: 'tf'; allowed are"):
        build("ResNetDW", style="tf")


def test_one_guide_serves_both_pointwise_convolutions_of_a_block():
    conv = dict(type="DRConv", regions=4)
    net = build("ShuffleNetV2", pointwise_conv_cfg=conv, share_guide=True)
    sharing = [b for s in (net.stage2, net.stage3, net.stage4) for b in s[1:]]
    for block in sharing:
        assert not block.branch2[0].own_guide
        assert not block.branch2[5].own_guide
        assert block.guide.out_channels == 4
    assert net.stage2[0].branch2[0].own_guide
    own = build("ShuffleNetV2", pointwise_conv_cfg=conv)
    numbers = [sum(p.numel() for p in n.parameters()) for n in (own, net)]
    # One 1x1 guide and its 4 biases fewer per block.
    less = sum(4 * b.guide.in_channels + 4 for b in sharing)
    assert numbers[0] - numbers[1] == less
    block = sharing[0].eval()
    x = torch.randn(1, 58, 6, 6)
    guide = block.guide(x)
    expected = block.branch2[0](x, guide)
    for layer in block.branch2[1:]:
        expected = layer(expected, guide) if isinstance(layer, DRConv2d) else layer(expected)
    torch.testing.assert_close(block._guided(x), expected)
    with pytest.raises(ValueError, match="share_guide: True needs"):
        build("ShuffleNetV2", share_guide=True)


def test_two_branches_see_79_pixels():
    net = build("TwoBranchNet", out_indices=(0, 0, 1, 1, 1)).eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.requires_grad_(False)
    for p in net.parameters():
        p.data.abs_()
    x = torch.rand(1, 3, 256, 256, requires_grad=True)
    maps = net(x)
    assert maps[0] is maps[1]
    assert maps[2] is maps[4]
    for m in (maps[0], maps[2]):
        (grad,) = torch.autograd.grad(m[0, :, 16, 16].sum(), x, retain_graph=True)
        assert grad[0].abs().sum((0, 1)).count_nonzero() == 79
