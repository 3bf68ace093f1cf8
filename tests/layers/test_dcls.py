import copy

import pytest
import torch
from torch import nn

from mmlearnconv.layers import DCLSConv2d, DepthwiseTapsConv2d
from mmlearnconv.surgery import build_conv

# The authors' version names -> ours.
VERSIONS = {
    "v0": dict(interpolation="bilinear"),
    "gauss": dict(interpolation="gauss"),
    "max": dict(interpolation="triangle"),
    "v1": dict(interpolation="triangle", learn_width=False),
}


def copied_from_package(theirs, version, kernel_size, **options):
    """Our layer with the parameters of a ``Dcls2d``, whose position axes depend on its version."""
    ours = DCLSConv2d(
        theirs.in_channels,
        theirs.out_channels,
        kernel_size,
        kernel_count=theirs.kernel_count,
        dilated_kernel_size=theirs.dilated_kernel_size,
        **VERSIONS[version],
        **options,
    ).double()
    positions, width = theirs.P.data.clone(), theirs.SIG
    if version != "v0":
        # Column first, and each axis counted from the other one's middle.
        middles = torch.tensor([s // 2 for s in theirs.dilated_kernel_size]).view(2, 1, 1, 1)
        positions = (positions + middles).flip(0) - middles
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.positions.copy_(positions)
        ours.bias.copy_(theirs.bias)
        if width is not None:
            ours.width.copy_(width.flip(0))
    return ours


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("window", [(7, 7), (5, 9)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_equals_the_authors_package(version, window, groups):
    modules = pytest.importorskip("DCLS.construct.modules")
    theirs = modules.Dcls2d(
        8,
        8,
        kernel_count=5,
        padding=tuple(s // 2 for s in window),
        dilated_kernel_size=window,
        groups=groups,
        version=version,
    ).double()
    # Away from integers, where ours and theirs may take the derivative from different sides.
    theirs.P.data = theirs.P.data.floor() + 0.1 + 0.8 * torch.rand_like(theirs.P)
    ours = copied_from_package(theirs, version, 3, padding=1, groups=groups)
    x = torch.randn(2, 8, 14, 13, dtype=torch.double)
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        ours.dense_kernel(),
        theirs.DCK(theirs.weight, theirs.P, theirs.SIG),
        rtol=0,
        atol=1e-6,
    )
    upstream = torch.randn_like(expected)
    ours(x).backward(upstream)
    expected.backward(upstream)
    turn = (lambda t: t) if version == "v0" else (lambda t: t.flip(0))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.positions.grad, turn(theirs.P.grad), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=0, atol=1e-6)
    if theirs.SIG is not None:
        torch.testing.assert_close(ours.width.grad, turn(theirs.SIG.grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel_size", "window", "count"),
    [(3, 7, 5), (7, 17, 34), (5, 11, 8), (4, 8, 5), (2, 4, 1), ((1, 7), (3, 17), 2)],
)
def test_defaults(kernel_size, window, count):
    conv = DCLSConv2d(4, 6, kernel_size, groups=2)
    window = window if isinstance(window, tuple) else (window, window)
    assert conv.dilated_kernel_size == window
    assert conv.weight.shape == (6, 2, count)
    assert conv.positions.shape == (2, 6, 2, count)


def test_positions_start_as_published():
    positions = DCLSConv2d(64, 64, 7).positions
    assert abs(positions.mean()) < 0.01
    assert abs(positions.std() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (dict(kernel_count=0), ValueError),
        (dict(kernel_count=2.0), TypeError),
        (dict(dilated_kernel_size=8), ValueError),
        (dict(dilated_kernel_size=1), ValueError),
        (dict(interpolation="nearest"), ValueError),
    ],
    ids=str,
)
def test_wrong_options_are_named(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        DCLSConv2d(4, 4, 3, **wrong)


@pytest.mark.parametrize("window", [6, 7])
def test_every_optimizer_step_clamps(window):
    conv = DCLSConv2d(4, 4, window % 2 + 2, dilated_kernel_size=window, kernel_count=3)
    optimizer = torch.optim.SGD(conv.parameters(), lr=100.0)
    direction = torch.where(torch.rand_like(conv.positions) < 0.5, -1.0, 1.0)
    (conv.positions * direction).sum().backward()
    optimizer.step()
    upper = (window - 1) // 2
    assert set(conv.positions.unique().tolist()) == {-float(window // 2), float(upper)}


def test_only_what_an_optimizer_steps_is_clamped_copies_included():
    conv, other = DCLSConv2d(2, 2, 3), DCLSConv2d(2, 2, 3)
    for layer in (conv, other):
        layer.positions.data.fill_(9)
    twin = copy.deepcopy(other)
    twin.positions.grad = torch.zeros_like(twin.positions)
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert twin.positions.max() == 3
    assert conv.positions.max() == other.positions.max() == 9


def test_fewer_elements_take_the_largest_taps():
    plain = nn.Conv2d(1, 1, 3, bias=False)
    plain.weight.data = torch.tensor([[9.0, 1, -8], [2, 7, 3], [-6, 4, 5]]).view(1, 1, 3, 3)
    conv = DCLSConv2d(1, 1, 3, bias=False, kernel_count=5)
    conv.load_state_dict(plain.state_dict())
    kernel = conv.dense_kernel()[0, 0]
    expected = torch.tensor([[9.0, 0, -8], [0, 7, 0], [-6, 0, 5]])
    torch.testing.assert_close(kernel[2:5, 2:5], expected)
    assert kernel.abs().sum() == expected.abs().sum()


class TestSharedPositions:
    def make(self, layers=3, **options):
        model = nn.Sequential(*(DCLSConv2d(4, 4, 3, padding=1, **options) for _ in range(layers)))
        for layer in model[1:]:
            layer.share_positions(model[0])
        return model

    def test_one_parameter_registered_and_saved_once(self):
        model = self.make()
        names = [name for name, _ in model.named_parameters() if "positions" in name]
        assert names == ["0.positions"]
        assert [key for key in model.state_dict() if "positions" in key] == names
        model(torch.randn(1, 4, 9, 9)).sum().backward()
        assert model[0].positions.grad.abs().sum() > 0

    def test_gradient_is_the_sum_over_the_layers(self):
        model = self.make().double()
        separate = nn.Sequential(*(DCLSConv2d(4, 4, 3, padding=1) for _ in range(3))).double()
        for ours, theirs in zip(separate, model, strict=True):
            ours.weight.data = theirs.weight.data.clone()
            ours.bias.data = theirs.bias.data.clone()
            ours.positions.data = model[0].positions.data.clone()
        x = torch.randn(1, 4, 9, 9, dtype=torch.double)
        model(x).square().sum().backward()
        separate(x).square().sum().backward()
        total = sum(layer.positions.grad for layer in separate)
        torch.testing.assert_close(model[0].positions.grad, total)

    def test_copies_share_among_themselves(self):
        model = self.make()
        twin = copy.deepcopy(model)
        twin[0].positions.data.add_(1)
        x = torch.randn(1, 4, 9, 9)
        assert not torch.equal(twin[2](x), model[2](x))
        assert twin[2].position_owner is twin[0]

    def test_keys_of_the_other_users_are_accepted(self):
        model, other = self.make(), self.make()
        state = model.state_dict()
        other.load_state_dict(state)
        spelled_out = dict(state)
        for i in (1, 2):
            spelled_out[f"{i}.positions"] = state["0.positions"].clone()
        other.load_state_dict(spelled_out)
        x = torch.randn(1, 4, 9, 9)
        assert torch.equal(other(x), model(x))
        spelled_out["2.positions"] += 1
        with pytest.raises(RuntimeError, match=r"2\.positions: differs"):
            other.load_state_dict(spelled_out)

    def test_plain_checkpoint(self):
        plain = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
        model = self.make(kernel_count=9)
        model.load_state_dict(plain.state_dict())
        x = torch.randn(1, 4, 9, 9)
        torch.testing.assert_close(model(x), plain(x))

    def test_plain_checkpoint_chooses_cells_together(self):
        plain = nn.Sequential(*(nn.Conv2d(1, 1, 3, bias=False) for _ in range(2)))
        plain[0].weight.data = torch.tensor([5.0, 4, 0, 0, 0, 0, 0, 0, 1]).view(1, 1, 3, 3)
        plain[1].weight.data = torch.tensor([0.0, 1, 9, 0, 0, 0, 0, 0, 1]).view(1, 1, 3, 3)
        model = nn.Sequential(*(DCLSConv2d(1, 1, 3, bias=False, kernel_count=2) for _ in range(2)))
        model[1].share_positions(model[0])
        model.load_state_dict(plain.state_dict())
        # Energies 25, 17 and 81 on the first row: its first and last cell are kept, in both.
        for layer, row in zip(model, ([5.0, 0, 0], [0.0, 0, 9]), strict=True):
            kernel = layer.dense_kernel()[0, 0]
            assert kernel[2, 2:5].tolist() == row
            assert kernel.abs().sum() == sum(row)

    def test_another_load_leaves_the_other_layers_alone(self):
        """One layer's plain kernel, however long ago, says nothing about what it became since."""
        model = nn.Sequential(*(DCLSConv2d(1, 1, 3, kernel_count=9) for _ in range(2)))
        model[1].share_positions(model[0])
        model[0].load_state_dict(nn.Conv2d(1, 1, 3).state_dict())
        trained = model[0].weight.detach().clone().mul_(2)
        model[0].weight.data.copy_(trained)
        model[1].load_state_dict(nn.Conv2d(1, 1, 3).state_dict())
        assert torch.equal(model[0].weight, trained)

    def test_unequal_layers_are_refused(self):
        with pytest.raises(ValueError, match="share_positions"):
            DCLSConv2d(4, 4, 3).share_positions(DCLSConv2d(4, 8, 3))
        with pytest.raises(ValueError, match="share_positions"):
            DCLSConv2d(4, 4, 3).share_positions(DCLSConv2d(4, 4, 3, dilated_kernel_size=5))


def test_half_precision_keeps_positions_exact():
    """Built in float32: a position of 1.999 in bfloat16 would be another cell's."""
    conv = DCLSConv2d(4, 4, 7, groups=4)
    kernel = conv.dense_kernel()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv.dense_kernel(), kernel)


# type name, plain layer, the kernel to replace, a window along the learned axes, input
BEYOND_2D = {
    "DCLS1d": (nn.Conv1d, (3,), (7,), (20,)),
    "DCLS2_1d": (nn.Conv2d, (3, 5), (9,), (9, 14)),
    "DCLS3d": (nn.Conv3d, (3, 1, 3), (5, 3, 7), (8, 9, 7)),
    "DCLS3_1d": (nn.Conv3d, (2, 3, 3), (7,), (8, 9, 7)),
    "DCLS3_2d": (nn.Conv3d, (3, 2, 3), (6, 5), (8, 9, 7)),
}


@pytest.mark.parametrize("name", BEYOND_2D)
@pytest.mark.parametrize("interpolation", ["bilinear", "gauss", "triangle"])
@pytest.mark.parametrize("groups", [1, 4])
def test_other_dimensions_take_over_a_plain_convolution(name, interpolation, groups):
    plain_type, kernel_size, window, size = BEYOND_2D[name]
    geometry = dict(stride=2, padding=1, dilation=2, groups=groups)
    plain = plain_type(4, 4, kernel_size, **geometry).double()
    learned = len(window)
    cells = torch.Size(kernel_size[-learned:]).numel()
    options = dict(dilated_kernel_size=window, kernel_count=cells, interpolation=interpolation)
    conv = build_conv(dict(type=name, **options), 4, 4, kernel_size, **geometry).double()
    x = torch.randn(2, 4, *size, dtype=torch.double)
    assert conv(x).shape == plain(x).shape
    conv.load_state_dict(plain.state_dict())
    error = (conv(x) - plain(x)).norm() / plain(x).norm()
    assert error < (5e-3 if interpolation == "gauss" else 1e-10)
    torch.testing.assert_close(conv.to_conv()(x), conv(x))
    assert type(conv.to_conv()) is plain_type


def test_1d_and_3d_equal_the_authors_package():
    modules = pytest.importorskip("DCLS.construct.modules")
    # In three dimensions the package's axes are (0, 2, 1) in v0 and reversed in the other versions.
    for ours_name, theirs_type, dims, version, axes in (
        ("DCLS1d", modules.Dcls1d, 1, "gauss", [0]),
        ("DCLS3d", modules.Dcls3d, 3, "v0", [0, 2, 1]),
        ("DCLS3d", modules.Dcls3d, 3, "v1", [2, 1, 0]),
    ):
        theirs = theirs_type(
            4, 4, kernel_count=5, padding=3, dilated_kernel_size=7, version=version
        ).double()
        cfg = dict(type=ours_name, kernel_count=5, dilated_kernel_size=7, **VERSIONS[version])
        ours = build_conv(cfg, 4, 4, 3, padding=1).double()
        ours.weight.data.copy_(theirs.weight)
        ours.positions.data.copy_(theirs.P[axes])
        ours.bias.data.copy_(theirs.bias)
        x = torch.randn(2, 4, *(6,) * dims, dtype=torch.double)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("version", ["v1", "gauss", "max"])
def test_3_1d_equals_the_authors_package(version):
    modules = pytest.importorskip("DCLS.construct.modules")
    theirs = modules.Dcls3_1d(
        4,
        4,
        kernel_count=2,
        padding=(1, 1, 3),
        dense_kernel_size=(3, 3),
        dilated_kernel_size=7,
        version=version,
    ).double()
    cfg = dict(type="DCLS3_1d", kernel_count=2, dilated_kernel_size=7, **VERSIONS[version])
    ours = build_conv(cfg, 4, 4, 3, padding=1).double()
    ours.weight.data.copy_(theirs.weight.flatten(1, 3))
    ours.positions.data.copy_(theirs.P.flatten(2, 4))
    ours.bias.data.copy_(theirs.bias)
    if theirs.SIG is not None:
        ours.width.data.copy_(theirs.SIG.flatten(2, 4))
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


def test_learned_axes_are_checked():
    with pytest.raises(ValueError, match="learned_axes"):
        DCLSConv2d(4, 4, 3, learned_axes=(2,))


@pytest.mark.parametrize("options", [{}, dict(stride=2, padding=0, dilation=2), dict(bias=False)])
def test_a_list_of_taps_is_the_layer(options):
    layer = DCLSConv2d(
        **dict(dict(padding=3, groups=5), **options, in_channels=5, out_channels=5, kernel_size=7)
    )
    layer.positions.data.mul_(20)
    layer.clamp_parameters()
    x = torch.randn(2, 5, 40, 41)
    exact = layer.to_taps()
    assert isinstance(exact, DepthwiseTapsConv2d)
    torch.testing.assert_close(exact(x), layer.to_conv()(x), rtol=1e-4, atol=1e-5)
    rounded = layer.to_taps(rounded=True)
    layer.positions.data.round_()
    assert rounded.weight.shape == (5, 34)
    torch.testing.assert_close(rounded(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(groups=1), dict(padding_mode="reflect"), dict(interpolation="gauss")]
)
def test_layers_without_a_list_say_so(options):
    options = dict(padding=1, groups=4) | options
    with pytest.raises(ValueError, match="only depthwise bilinear layers"):
        DCLSConv2d(4, 4, 3, **options).to_taps()
