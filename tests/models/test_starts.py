"""Where training starts: what constructors and an ``init_cfg`` draw, and what loads bring in."""

import math

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.model import initialize
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmlearnconv.layers import CoCConv2d, DCLSConv2d, DKEConv2d, DRConv2d
from tests.conftest import config_path
from tests.layers.contract import captured


def response_scale(conv, channels):
    """Deviation of the response to noise, over that of a plain kernel of deviation 1."""
    noise = torch.randn(8, channels, 24, 24)
    return (conv(noise)[..., 6:-6, 6:-6].std() / math.sqrt(channels * 9)).item()


@pytest.mark.parametrize("std", [0.01, 1.0])
@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="DCLS"),
        dict(type="DCLS", position_init="grid"),
        dict(type="DCLS", kernel_count=20, interpolation="gauss"),
        dict(type="DCLS", interpolation="triangle"),
        dict(type="DKE"),
        dict(type="DKE", alpha=10.0, position_init="grid"),
        dict(type="DKE", points=20),
        dict(type="DKE", points=4, interpolation="bilinear", shared_positions=True),
        dict(type="DRConv", base_weight=False),
        dict(type="DRConv", base_weight=False, hidden_channels=32),
        dict(type="CoC", normalize="layer_norm"),
    ],
    ids=str,
)
def test_an_init_cfg_gives_its_scale_whatever_the_start(cfg, std):
    model = nn.Sequential(ConvModule(32, 96, 3, padding=1, conv_cfg=cfg, act_cfg=None))
    for _ in range(2):
        # Twice, after zeros, which leave nothing to be scaled.
        initialize(model, dict(type="Constant", layer="Conv2d", val=0))
        initialize(model, dict(type="Normal", layer="Conv2d", std=std))
    # DRConv's filters are drawn for few regions, and its sigmoids are only near one half.
    tolerance = 0.2 if cfg["type"] == "DRConv" else 0.1
    assert response_scale(model[0].conv, 32) == pytest.approx(std, rel=tolerance)


def test_regions_of_a_filter_without_a_base_start_different():
    """Otherwise all regions would have one gradient, and the guide none."""
    conv = DRConv2d(8, 8, 1, base_weight=False)
    initialize(nn.Sequential(conv), dict(type="Xavier", layer="Conv2d"))
    conv(torch.randn(2, 8, 9, 9)).square().sum().backward()
    assert conv.guide_weight.grad.abs().sum() > 0
    assert conv.filter_scale.std() > 0


def test_dcls_on_the_grid_has_whole_positions_on_the_largest_cells():
    conv = DCLSConv2d(8, 16, 3, position_init="grid")
    assert torch.equal(conv.positions, conv.positions.round())
    drawn = nn.Conv2d(8, 16, 3).weight.data
    conv.init_from_conv_weight_(drawn)
    kernel = conv.dense_kernel()[..., 2:5, 2:5]
    kept = kernel != 0
    assert (kept.sum((2, 3)) == 5).all()
    smallest_kept = torch.where(kept, drawn.abs(), math.inf).amin((2, 3))
    assert (smallest_kept >= torch.where(kept, 0, drawn.abs()).amax((2, 3))).all()
    ratio = kernel[kept] / drawn[kept]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_a_start_that_is_none_is_named():
    with pytest.raises(ValueError, match="position_init: 'middle'"):
        DCLSConv2d(4, 4, 3, position_init="middle")


def built(config):
    pytest.importorskip("mmdet")
    cfg = Config.fromfile(config_path(config))
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        ("faster_rcnn_dke_c4_r18", False),
        ("faster_rcnn_dke_r50_fpn", False),
        # The paper shows there how far training moves kernels apart.
        ("ssd_dke_two_branch", True),
    ],
)
def test_dke_configs_start_as_the_paper_s(config, grid):
    layers = [m for m in built(config).modules() if isinstance(m, DKEConv2d)]
    assert layers
    for layer in layers:
        assert layer.alpha == 2
        if grid:
            assert torch.equal(layer.positions, layer.positions.round())
        else:
            assert layer.positions.std().item() == pytest.approx(1, abs=0.1)


def test_dcls_config_starts_as_the_paper_s():
    backbone = built("mask_rcnn_dcls_convnext_t").backbone
    layers = [m for m in backbone.modules() if isinstance(m, DCLSConv2d)]
    assert len(layers) == 18
    for layer in layers:
        assert layer.position_owner.positions.std().item() == pytest.approx(0.5, abs=0.02)
        per_filter = layer.dense_kernel().norm() / math.sqrt(len(layer.weight) * 49)
        assert per_filter.item() == pytest.approx(0.02, rel=0.05)


def test_a_trained_kernel_moves_positions_and_alpha():
    """To keep its function."""
    conv, plain = DKEConv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    conv.load_state_dict(plain.state_dict())
    assert conv.alpha == 10
    assert torch.equal(conv.positions, conv.positions.round())


@pytest.mark.parametrize("groups", [1, 4])
def test_positions_beyond_the_limit_are_brought_in_and_reported(groups):
    """Of a DKE layer whose limit was larger: a built kernel's window does not hold them."""
    options = dict(groups=groups, attention=False)
    source = nn.Sequential(DKEConv2d(4, 4, 3, position_limit=8.0, **options))
    target = nn.Sequential(DKEConv2d(4, 4, 3, **options))
    source[0].positions.data.flatten()[3] = 5.5
    messages = captured(lambda: target.load_state_dict(source.state_dict()))
    assert target[0].positions.max() == 4
    assert len(messages) == 1
    assert messages[0].startswith("0.positions: the checkpoint's lie up to 1.5 cells beyond")
    x = torch.randn(1, 4, 15, 15)
    torch.testing.assert_close(target[0].to_conv()(x), target(x), rtol=1e-4, atol=1e-5)


def test_dcls_positions_beyond_the_window_load_as_they_are():
    """Every path drops what falls outside, as the definition does."""
    source, target = (DCLSConv2d(4, 4, 3, groups=4) for _ in range(2))
    source.positions.data.flatten()[3] = 3.5
    assert captured(lambda: target.load_state_dict(source.state_dict())) == []
    x = torch.randn(1, 4, 15, 15)
    assert torch.equal(target(x), source(x))
    torch.testing.assert_close(target.to_conv()(x), target(x), rtol=1e-4, atol=1e-5)


def test_positions_in_bounds_load_without_a_word():
    source, target = DKEConv2d(4, 4, 3), DKEConv2d(4, 4, 3)
    assert captured(lambda: target.load_state_dict(source.state_dict())) == []
    assert torch.equal(source.positions, target.positions)


def test_layer_norms_of_coc_refuse_a_plain_kernel():
    conv = CoCConv2d(4, 8, 3, normalize="layer_norm")
    with pytest.raises(RuntimeError, match="different standard deviations"):
        conv.load_state_dict(nn.Conv2d(4, 8, 3).state_dict())


def test_layer_norms_of_coc_fold_and_load():
    conv, other = (CoCConv2d(4, 10, 3, padding=1, normalize="layer_norm") for _ in range(2))
    for parameter in conv.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(conv.to_conv()(x), conv(x))
    other.load_state_dict(conv.state_dict())
    torch.testing.assert_close(other(x), conv(x))
    conv(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in conv.parameters())
