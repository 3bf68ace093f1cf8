import pytest
import torch
from torch import nn

from mmlearnconv.analysis import count_complexity
from mmlearnconv.surgery import build_conv
from tests.conftest import config_path


def conv(kind, *args, **kwargs):
    return build_conv(dict(type=kind), *args, **kwargs)


def test_plain_layers_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    )
    counts = count_complexity(model, (8, 6))
    assert counts.parameters == 3 * 4 * 9 + 2 * 4
    assert counts.macs == counts.network == 4 * 3 * (3 * 4 * 9)
    # Two operations per element for the norm, one for the ReLU.
    assert counts.elementwise == 3 * (4 * 4 * 3)


# The image is 10 x 12; a layer of three channels in, stride 1, keeps it.
PLACES = 120


@pytest.mark.parametrize(
    ("kind", "options", "parts"),
    [
        # All cells of the 7x7 window.
        ("DCLS", dict(kernel_size=3), dict(convolution=4 * 3 * 49 * PLACES)),
        ("CoC", dict(kernel_size=3), dict(convolution=4 * 3 * 9 * PLACES)),
        (
            "DRConv",
            dict(kernel_size=3, regions=8),
            dict(
                convolution=4 * 3 * 9 * PLACES,
                guide=8 * 3 * 9 * PLACES,
                # On a 3x3 map: 1x1 to 8 channels, and 8 groups of one to 4 x 3 each.
                generator=9 * (8 * 3 + 8 * 4 * 3),
            ),
        ),
        (
            "DK",
            dict(kernel_size=3, mode="global"),
            # 18 offsets of the pooled input; two for each of the 9 taps of 4 x 3 kernels.
            dict(convolution=4 * 3 * 9 * PLACES, generator=18 * 3, sampling=2 * 9 * 4 * 3),
        ),
        (
            "DK",
            dict(kernel_size=3, mode="local", scope=4),
            # The 16 cells of the kernel space are multiplied.
            dict(
                convolution=4 * 3 * 16 * PLACES,
                generator=18 * 3 * 9 * PLACES,
                sampling=2 * 9 * 3 * PLACES,
            ),
        ),
        (
            "DKE",
            dict(kernel_size=3),
            # A disc of radius 2 has 13 cells on average; scores, and their product.
            dict(
                convolution=4 * 3 * 9 * PLACES,
                sampling=13 * 9 * 3 * PLACES,
                attention=2 * 9 * 3 * PLACES,
            ),
        ),
        ("ACU", dict(kernel_size=3), dict(convolution=108 * PLACES, sampling=4 * 27 * PLACES)),
        (
            "CondConv",
            dict(kernel_size=3, num_experts=8),
            dict(convolution=108 * PLACES, generator=8 * 3 + 8 * 108),
        ),
    ],
)
def test_layers_by_hand(kind, options, parts):
    model = nn.Sequential(conv(kind, 3, 4, padding=1, **options), nn.Conv2d(4, 2, 1))
    counts = count_complexity(model, (10, 12))
    assert counts.layers == {"0": parts}
    assert counts.parts == parts | dict(network=4 * 2 * PLACES)


@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
@pytest.mark.parametrize("size", [2, 3, (1, 4)])
def test_maps_have_the_size_that_a_plain_convolution_gives(padding, size):
    arguments = dict(kernel_size=size, padding=padding, dilation=(1, 2))
    plain = nn.Conv2d(3, 4, **arguments)(torch.randn(1, 3, 10, 12))
    layer = conv("DRConv", 3, 4, **arguments)
    assert layer.output_size((10, 12)) == plain.shape[2:]


def test_mmcv_s_deformable_convolution():
    DeformConv2dPack = pytest.importorskip("mmcv.ops").DeformConv2dPack
    counts = count_complexity(DeformConv2dPack(3, 4, 3, padding=1, deform_groups=1), (10, 12))
    taps = 9 * 3 * PLACES
    assert counts.parts == dict(convolution=4 * taps, generator=18 * taps, sampling=2 * taps)


def test_the_model_stays_as_it_was():
    model = nn.Sequential(conv("DRConv", 3, 4, kernel_size=1), nn.BatchNorm2d(4))
    x = torch.randn(1, 3, 5, 5)
    before = model(x)
    count_complexity(model, (5, 5))
    assert model.training
    assert torch.equal(model(x), before)


def test_a_layer_counts_as_often_as_it_runs():
    layer = conv("CoC", 3, 3, kernel_size=3, padding=1)
    once, twice = nn.Sequential(layer), nn.Sequential(layer, layer)
    assert count_complexity(twice, (4, 4)).macs == 2 * (count_complexity(once, (4, 4)).macs)


class NeedsData(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x) * x.sum().item()


def test_what_needs_data_is_run():
    assert count_complexity(NeedsData(), (4, 4)).macs == 6 * 16


def test_what_does_not_run_is_named():
    with pytest.raises(ValueError, match=r"Sequential cannot be counted at \(4, 4\): .*2 channels"):
        count_complexity(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(5, 2, 1)), (4, 4))


def test_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"size: \(0, 4\); must be height and width"):
        count_complexity(nn.Conv2d(3, 2, 1), (0, 4))


def test_a_detector_as_mmdet_counts_it():
    """mmdet's documentation of its own counter gives 239.32 for this detector at 1280x800."""
    pytest.importorskip("mmdet")
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(config_path("retinanet_r50"))
    init_default_scope("mmdet")
    counts = count_complexity(MODELS.build(cfg.model), (800, 1280))
    # It adds biases, too.
    assert (counts.macs + counts.elementwise) / 1e9 == pytest.approx(239.32, abs=0.1)
