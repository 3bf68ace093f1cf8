"""Options, refusals and training techniques of the single layers, beyond the shared contract."""

import itertools

import pytest
import torch
from mmcv.cnn import build_conv_layer
from torch import nn

from mmlearnconv.layers import (
    CoCConv2d,
    CondConv2d,
    DeformableKernelConv2d,
    DKEConv2d,
    DRConv2d,
)
from mmlearnconv.layers.base import report_plain_loads


def build(name, *args, **kwargs):
    options = {k: kwargs.pop(k) for k in list(kwargs) if k not in ("groups", "padding", "stride")}
    return build_conv_layer(dict(type=name, **options), *args, **kwargs)


def relative(ours, expected):
    return ((ours - expected).norm() / expected.norm()).item()


class TestDK:
    def test_the_builder_chooses_the_form(self):
        assert build("DK", 4, 4, 3, groups=4).mode == "local"
        assert build("DK", 4, 8, 3, groups=4).mode == build("DK", 4, 4, 3).mode == "global"
        assert build("DK", 4, 4, 3, mode="local").mode == "local"

    @pytest.mark.parametrize(("kernel", "scope"), [(1, 2), (3, 4), (5, 6)])
    def test_default_scope(self, kernel, scope):
        assert DeformableKernelConv2d(4, 4, kernel).weight.shape[2:] == (scope, scope)

    def test_offsets_learn_slowly(self):
        conv = DeformableKernelConv2d(4, 4, 3, data_offset=True, offset_lr_mult=0.1)
        names = {"offset_weight", "offset_bias", "data_offset_weight", "data_offset_bias"}
        assert conv.optim_policy == {name: dict(lr_mult=0.1) for name in names}

    def test_the_kernel_follows_the_image(self):
        conv = DeformableKernelConv2d(4, 4, 3, padding=1, mode="global").double()
        nn.init.normal_(conv.offset_weight)
        x = torch.randn(2, 4, 8, 8, dtype=torch.double)
        swapped = conv(x.flip(0)).flip(0)
        torch.testing.assert_close(conv(x), swapped)
        alone = conv(x[:1])
        torch.testing.assert_close(alone, conv(x)[:1])

    @pytest.mark.parametrize(
        "wrong", [dict(mode="both"), dict(scope=2), dict(num_experts=0)], ids=str
    )
    def test_wrong_options_are_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DeformableKernelConv2d(4, 4, 3, **wrong)

    def test_memory_of_the_local_form_does_not_grow_with_the_scope(self):
        """No tensor of channels times scope cells times locations, forward or backward."""
        from tests.ops.test_dcls import LargestTensor

        conv = DeformableKernelConv2d(64, 64, 3, padding=1, groups=64, scope=9)
        x = torch.randn(1, 64, 96, 96, requires_grad=True)
        with LargestTensor() as largest:
            conv(x).sum().backward()
        assert largest.numel < 64 * 81 * 96 * 96 / 5


class TestDKE:
    def test_positions_start_as_published_and_are_clamped(self):
        conv = DKEConv2d(512, 4, 3)
        assert conv.positions.shape == (512, 9, 2)
        assert abs(conv.positions.std() - 1) < 0.05
        conv.positions.data.fill_(9.0)
        conv.positions.grad = torch.zeros_like(conv.positions)
        torch.optim.SGD(conv.parameters(), lr=0.1).step()
        assert conv.positions.max() == 4

    def test_acu_is_the_baseline_of_the_paper(self):
        conv = build("ACU", 4, 8, 3)
        assert conv.positions.shape == (1, 9, 2)
        assert (conv.interpolation, conv.attention) == ("bilinear", False)
        grid = list(itertools.product((-1.0, 0.0, 1.0), repeat=2))
        assert [tuple(p) for p in conv.positions[0].tolist()] == grid

    def test_points_are_an_option(self):
        assert DKEConv2d(4, 8, 5, points=9).weight.shape == (8, 4, 9)
        assert DKEConv2d(4, 8, 5).weight.shape == (8, 4, 25)

    def test_fewer_points_take_the_largest_taps_of_a_channel(self):
        plain = nn.Conv2d(1, 2, 3, bias=False).double()
        plain.weight.data.zero_()
        plain.weight.data[0, 0, 0, 2], plain.weight.data[1, 0, 2, 1] = 3.0, -4.0
        plain.weight.data[0, 0, 1, 1] = 1.0
        conv = DKEConv2d(
            1, 2, 3, bias=False, points=2, interpolation="bilinear", attention=False
        ).double()
        conv.load_state_dict(plain.state_dict())
        kernel = conv.dense_kernel()[:, 0]
        middle = kernel.shape[-1] // 2
        expected = plain.weight.data[:, 0].clone()
        expected[0, 1, 1] = 0
        torch.testing.assert_close(
            kernel[:, middle - 1 : middle + 2, middle - 1 : middle + 2], expected
        )
        report_plain_loads()

    @pytest.mark.parametrize("padding", [0, 1, 2])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_scores_are_of_the_output_location(self, padding, stride):
        """An input that is one at a single place scores the output whose window has it centred."""
        conv = DKEConv2d(1, 1, 3, stride=stride, padding=padding).double()
        nn.init.ones_(conv.attention_weight)
        nn.init.zeros_(conv.attention_bias)
        for row in range(padding and 1, 7):
            x = torch.zeros(1, 1, 9, 9, dtype=torch.double)
            x[..., row, row] = 1
            padded, extra = conv._padded(x, conv._extra_padding(conv.window))
            scores = conv._scores(padded, extra)[0, 0]
            assert scores.shape == nn.Conv2d(1, 1, 3, stride, padding)(x.float()).shape[2:]
            place = row + padding - 1
            if place < 0 or place % stride or place // stride >= len(scores):
                assert scores.sum() == 0
            else:
                assert scores[place // stride, place // stride] == 1
                assert scores.sum() == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            dict(interpolation="cubic"),
            dict(position_init="zero"),
            dict(alpha=0),
            dict(radius=0.5),
            dict(points=0),
            dict(position_limit=-1),
        ],
        ids=str,
    )
    def test_wrong_options_are_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DKEConv2d(4, 4, 3, **wrong)


class TestCoC:
    @pytest.mark.parametrize(
        ("kernel", "dilated", "shape", "dilation"),
        [
            (3, True, (3, 3), (2, 2)),
            (5, True, (5, 5), (2, 2)),
            (7, True, (5, 5), (3, 3)),
            (3, False, (5, 5), (1, 1)),
            (7, False, (9, 9), (1, 1)),
        ],
    )
    def test_super_kernels_as_published(self, kernel, dilated, shape, dilation):
        conv = CoCConv2d(4, 8, kernel, dilated=dilated)
        assert conv.super_weight.shape == (1, 2, *shape)
        assert conv.super_dilation == dilation

    def test_kernels_of_a_sheet_learn_from_each_other(self):
        conv = CoCConv2d(2, 8, 3)
        nn.init.normal_(conv.super_weight)
        conv(torch.randn(1, 2, 9, 9))[:, 0].sum().backward()
        reached = conv.weight.grad.abs().sum((1, 2, 3)) > 0
        assert reached.tolist() == [True] * 4 + [False] * 4

    def test_orthogonal_filters(self):
        conv = build("ConvOrth", 8, 16, 3)
        rows = conv.dense_kernel().flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(16), rtol=0, atol=1e-3)

    def test_orthogonal_filters_that_cannot_be(self):
        with pytest.raises(ValueError, match=r"32 > 1 \* 3 \* 3 = 9"):
            build("ConvOrth", 32, 32, 3, groups=32)

    def test_a_plain_kernel_cannot_be_orthogonal(self):
        conv = build("ConvOrth", 4, 4, 3)
        with pytest.raises(RuntimeError, match="not orthonormal"):
            conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())

    def test_orthogonal_filters_load_their_own_checkpoint(self):
        conv, other = (build("ConvOrth", 4, 4, 3) for _ in range(2))
        other.load_state_dict(conv.state_dict())
        assert torch.equal(other.dense_kernel(), conv.dense_kernel())

    def test_folds_to_the_same_geometry(self):
        conv = CoCConv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect")
        nn.init.normal_(conv.super_weight)
        dense = conv.to_dense()
        assert dense.weight.shape == (6, 4, 3, 3)
        x = torch.randn(1, 4, 9, 9)
        torch.testing.assert_close(dense(x), conv(x))

    @pytest.mark.parametrize(
        "wrong", [dict(association=0), dict(super_layers=0), dict(normalize="weight")], ids=str
    )
    def test_wrong_options_are_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CoCConv2d(4, 4, 3, **wrong)


class TestDRConv:
    def test_a_guide_handed_in(self):
        own = DRConv2d(4, 6, 3, padding=1, regions=2, base_weight=False)
        given = DRConv2d(4, 6, 3, padding=1, regions=2, base_weight=False, own_guide=False)
        state = own.state_dict()
        given.load_state_dict({k: v for k, v in state.items() if not k.startswith("guide")})
        x = torch.randn(2, 4, 9, 9)
        torch.testing.assert_close(given(x, own.guide(x)), own(x))
        with pytest.raises(ValueError, match="guide: missing"):
            given(x)
        with pytest.raises(ValueError, match="guide: given"):
            own(x, own.guide(x))

    def test_the_general_path_equals_the_factorised_one(self):
        """Two hidden channels a region, the second without influence."""
        own = DRConv2d(4, 6, 3, padding=1, regions=2).double()
        nn.init.normal_(own.value)
        nn.init.normal_(own.offset)
        general = DRConv2d(4, 6, 3, padding=1, regions=2, hidden_channels=4).double()
        with torch.no_grad():
            for name in ("weight", "bias", "guide_weight", "guide_bias", "offset"):
                getattr(general, name).copy_(getattr(own, name))
            general.value.zero_()
            general.value[..., 0] = own.value[..., 0]
            general.hidden_weight[::2] = own.hidden_weight
            general.hidden_bias[::2] = own.hidden_bias
        x = torch.randn(3, 4, 9, 9, dtype=torch.double)
        torch.testing.assert_close(general(x), own(x))

    def test_a_plain_kernel_without_a_base(self):
        plain = nn.Conv2d(4, 6, 1)
        conv = DRConv2d(4, 6, 1, base_weight=False)
        conv.load_state_dict(plain.state_dict())
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(conv(x), plain(x))
        with pytest.raises(RuntimeError, match="base_weight=True"):
            DRConv2d(4, 6, 3, base_weight=False).load_state_dict(nn.Conv2d(4, 6, 3).state_dict())

    def test_a_thousand_regions_of_interest(self):
        """A filter an image would be 18.9 MB each: 18.9 GB."""
        from tests.ops.test_dcls import LargestTensor

        conv = DRConv2d(256, 256, 3, padding=1)
        x = torch.randn(1000, 256, 7, 7, requires_grad=True)
        with LargestTensor() as largest:
            conv(x).sum().backward()
        assert largest.numel <= 2 * 2 * x.numel()

    def test_every_region_and_the_guide_learn(self):
        conv = DRConv2d(4, 6, 3, padding=1, regions=3)
        nn.init.normal_(conv.value)
        x = torch.randn(2, 4, 12, 12)
        conv(x).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in conv.parameters())

    @pytest.mark.parametrize(
        "wrong", [dict(regions=0), dict(hidden_channels=7), dict(hidden_channels=0)], ids=str
    )
    def test_wrong_options_are_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DRConv2d(4, 4, 3, **wrong)


class TestCondConv:
    def test_experts_of_a_plain_kernel_can_part_ways(self):
        conv = CondConv2d(4, 4, 3, num_experts=2)
        conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
        conv(torch.randn(2, 4, 9, 9)).square().sum().backward()
        first, second = conv.routing_weight.grad
        assert relative(first, second) > 0.01
        report_plain_loads()
