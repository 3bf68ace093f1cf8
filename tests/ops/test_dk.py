"""Deformable kernels against their definition and hand-made cases."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmlearnconv.ops import dk_conv2d, reference
from mmlearnconv.ops.dk import dk_coefficients
from mmlearnconv.ops.geometry import conv_output_size
from mmlearnconv.ops.interpolation import linear_coefficients
from tests.ops.op_testing import (
    GEOMETRIES,
    GEOMETRY,
    assert_equals_definition,
    assert_same,
    both_formats,
    built,
    double,
    geometries,
    make_input,
    output_size,
)


def dk_inputs(geometry, scope, local, data):
    kernel, stride, padding, dilation, groups, out = geometry
    x = make_input()
    size = output_size(x, kernel, stride, padding, dilation)
    taps = 2 * kernel[0] * kernel[1]
    # Away from the interpolant's kinks, some beyond the kernel space.
    offsets = torch.randn(2, taps, *(size if local else (1, 1)), **double)
    offsets = (offsets.floor() + 0.2 + 0.2 * torch.rand_like(offsets)).requires_grad_()
    weight = torch.randn(out, 4 // groups, *scope, **double, requires_grad=True)
    moved = None
    if data:
        moved = torch.randn(2, taps, *size, **double)
        moved = (moved.floor() + 0.2 + 0.6 * torch.rand_like(moved)).requires_grad_()
    return x, weight, offsets, moved


@GEOMETRY
@pytest.mark.parametrize("scope", [(4, 4), (3, 5)])
@pytest.mark.parametrize(
    ("local", "data"), [(True, True), (True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize("tile", [1, 2**22])
def test_any_form_equals_its_definition(geometry, scope, local, data, tile, monkeypatch, path):
    monkeypatch.setattr("mmlearnconv.ops.dk.TILE", tile)
    monkeypatch.setattr("mmlearnconv.ops.dk.compiled.TILE", tile)
    monkeypatch.setattr("mmlearnconv.ops.dynamic_kernel._CHUNK", tile)
    x, weight, offsets, moved = dk_inputs(geometry, scope, local, data)
    kernel, stride, padding, dilation, groups, _ = geometry

    def call(function):
        return lambda x, w, o, g: function(
            x, w, o, kernel, None, stride, padding, dilation, groups, data_offsets=g
        )

    assert_same(call(dk_conv2d), call(reference.dk_conv2d), (x, weight, offsets, moved))


@pytest.mark.parametrize("data", [True, False])
def test_gradcheck(data, path):
    geometry = (*GEOMETRIES[0][:5], 2)
    x, weight, offsets, moved = dk_inputs(geometry, (4, 4), True, data)
    inputs = [
        t[..., :4, :4].detach().requires_grad_() if t is not None and t is not weight else t
        for t in (x, weight, offsets, moved)
    ]

    def function(*tensors):
        moved = dict(data_offsets=tensors[3]) if data else {}
        return dk_conv2d(*tensors[:3], geometry[0], None, *geometry[1:5], **moved)

    assert gradcheck(function, inputs if data else inputs[:3])


def test_coefficients_by_hand():
    """A tap moved by (0.5, -0.25) in a 4x4 space reads a mixture of four cells."""
    weight = torch.arange(16.0, **double).view(1, 1, 4, 4)
    offsets = torch.zeros(1, 18, 1, 1, **double)
    offsets[0, 8:10, 0, 0] = torch.tensor([0.5, -0.25])
    b = dk_coefficients(offsets, (3, 3), (4, 4))[0, :, :, 0, 0]
    # The middle tap sits at (1.5, 1.5), so at (2, 1.25) now.
    assert (b[4] @ weight.flatten()).item() == 0.75 * 9 + 0.25 * 10
    # An unmoved corner averages its four cells.
    assert (b[0] @ weight.flatten()).item() == (0 + 1 + 4 + 5) / 4
    offsets[0, 0] = -7
    b = dk_coefficients(offsets, (3, 3), (4, 4))[0, :, :, 0, 0]
    assert (b[0] @ weight.flatten()).item() == (0 + 1) / 2


def test_derivative_at_integers_is_one_sided_into_the_space():
    """The right-hand one, except at the last cell, where it would be zero and fix the position."""
    weight = torch.randn(3, **double)
    positions = torch.tensor([0.0, 1.0, 2.0], **double, requires_grad=True)
    values = linear_coefficients(positions, 3) @ weight
    (slopes,) = torch.autograd.grad(values.sum(), positions)
    last = weight[2] - weight[1]
    expected = torch.stack([weight[1] - weight[0], last, last])
    torch.testing.assert_close(slopes, expected)


def test_equals_a_convolution_at_zero_offsets_and_scope_k(path):
    x, weight = make_input(), torch.randn(6, 2, 3, 3, **double)
    for shape in ((1, 1), (8, 9)):
        offsets = torch.zeros(2, 18, *shape, **double)
        ours = dk_conv2d(x, weight, offsets, 3, None, 1, 1, 1, 2)
        torch.testing.assert_close(ours, F.conv2d(x, weight, None, 1, 1, 1, 2))


def cases(count):
    for rng, case in geometries(3, count, most=4, channels=(4, 16, 40)):
        channels = case["shape"][1]
        yield case | dict(
            scope=tuple(k + rng.choice([0, 0, 1, 2]) for k in case["size"]),
            groups=rng.choice([1, 2, channels]),
            out=rng.choice([channels, 2 * channels]),
            moved=rng.random() < 0.4,
        )


def tensors_of(case):
    """Input, kernel space and offsets; some beyond the space, some off the map."""
    batch, channels = case["shape"][:2]
    size = conv_output_size(case["shape"][2:], case["size"], *case["geometry"])
    numbers = 2 * case["size"][0] * case["size"][1]
    tensors = [
        torch.randn(case["shape"]),
        torch.randn(case["out"], channels // case["groups"], *case["scope"]),
        torch.randn(batch, numbers, *size),
    ]
    if case["moved"]:
        tensors.append(3 * torch.randn(batch, numbers, *size))
    return [t.double() for t in tensors]


@pytest.mark.parametrize("case", list(cases(40)), ids=str)
@both_formats
def test_equals_its_definition(case, memory_format):
    def call(function):
        return lambda x, weight, offsets, data_offsets=None: function(
            *(x, weight, offsets, case["size"], None, *case["geometry"], case["groups"]),
            data_offsets=data_offsets,
        )

    ours, definition = call(dk_conv2d), call(reference.dk_conv2d)
    assert_equals_definition(ours, definition, tensors_of(case), memory_format)


CASE = dict(
    shape=(2, 4, 6, 5),
    size=(3, 2),
    geometry=((2, 1), (1, 1), (1, 2)),
    scope=(4, 3),
    groups=4,
    out=4,
)


@built
@pytest.mark.parametrize("moved", [False, True])
@both_formats
def test_depthwise_is_an_operator_like_pytorch_s(moved, memory_format):
    x, *rest = tensors_of(CASE | dict(moved=moved))
    x = x.contiguous(memory_format=memory_format)
    tensors = [t.requires_grad_() for t in (x, *rest)]
    geometry = [list(g) for g in (CASE["size"], *CASE["geometry"])]
    operator = torch.ops.mmlearnconv.dk_depthwise

    def call(x, space, offsets, data_offsets=None):
        return operator(x, space, offsets, data_offsets, *geometry)

    data = () if moved else (None,)
    torch.library.opcheck(operator.default, (*tensors, *data, *geometry))
    assert gradcheck(call, tensors)


@built
@pytest.mark.parametrize("moved", [False, True])
def test_columns_are_operators_like_pytorch_s(moved):
    x, _, offsets, *rest = tensors_of(CASE | dict(moved=moved))
    data = rest[0] if moved else None
    x = x.contiguous(memory_format=torch.channels_last)
    cells = CASE["scope"][0] * CASE["scope"][1]
    columns = torch.randn(9, cells, x.shape[1], dtype=torch.double)
    geometry = [list(g) for g in (CASE["scope"], CASE["size"], *CASE["geometry"])]
    sampling = x, offsets, data, *geometry, 2, 11
    operators = torch.ops.mmlearnconv
    torch.library.opcheck(operators.dk_columns.default, (*sampling, columns))
    into = torch.zeros_like(x), torch.zeros_like(offsets), torch.zeros_like(offsets)
    into = into if moved else (*into[:2], None)
    torch.library.opcheck(operators.dk_columns_backward.default, (columns, *sampling, *into))


@built
def test_tiles_change_nothing(monkeypatch):
    case = CASE | dict(groups=2, moved=True)
    tensors = tensors_of(case)

    def run():
        leaves = [t.clone().requires_grad_() for t in tensors]
        found = dk_conv2d(
            *leaves[:3], case["size"], None, *case["geometry"], 2, data_offsets=leaves[3]
        )
        return [found, *torch.autograd.grad(found.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr("mmlearnconv.ops.dk.compiled.TILE", 7 * 12 * 4)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@built
def test_offsets_are_copied_once_not_in_every_tile(monkeypatch):
    monkeypatch.setattr("mmlearnconv.ops.dk.compiled.TILE", 8 * 16)  # some locations
    x, weight = torch.randn(2, 8, 9, 9), torch.randn(4, 8, 4, 4)
    offsets = torch.randn(2, 18, 9, 9).to(memory_format=torch.channels_last)

    def copies(offsets):
        with torch.profiler.profile() as profile:
            dk_conv2d(x, weight, offsets, 3, padding=1, data_offsets=offsets)
        return sum(event.name == "aten::copy_" for event in profile.events())

    assert copies(offsets) - copies(offsets.contiguous()) == 2


@built
def test_offsets_that_are_no_numbers_read_within_bounds():
    """A diverged generator must not crash the process."""
    x, weight, offsets = (t.float() for t in tensors_of(CASE | dict(moved=False)))
    bad = torch.full_like(offsets, float("nan"))
    for own, data in ((bad, None), (offsets, bad), (offsets, torch.full_like(bad, 1e30))):
        dk_conv2d(x, weight, own, CASE["size"], None, *CASE["geometry"], 4, data_offsets=data)
    assert dk_conv2d(x, weight, bad, CASE["size"], None, *CASE["geometry"], 4).isnan().any()


@built
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(space=torch.zeros(3, 1, 4, 4)), r"kernel space \[3, 1, 4, 4\] must be"),
        (dict(space=torch.zeros(4, 1, 2, 4)), r"kernel space of \[2, 4\] does not hold"),
        (dict(offsets=torch.zeros(2, 17, 6, 6)), r"offsets .* must be \(2, 18, H', W'\)"),
        (dict(data=torch.zeros(2, 18, 5, 6)), "data offsets .* must be like"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(
        x=torch.zeros(2, 4, 6, 6),
        space=torch.zeros(4, 1, 4, 4),
        offsets=torch.zeros(2, 18, 6, 6),
        data=None,
    )
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mmlearnconv.dk_depthwise(
            *(arguments | change).values(), [3, 3], [1, 1], [1, 1], [1, 1]
        )


def test_offsets_of_another_size_are_refused_with_the_right_one(path):
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 4, 4)
    right = torch.zeros(2, 18, 6, 6)
    with pytest.raises(
        ValueError, match=r"offsets: shape \(2, 18, 5, 6\); must be \(2, 18, 6, 6\)"
    ):
        dk_conv2d(x, weight, right[:, :, 1:], 3, padding=1)
    with pytest.raises(ValueError, match=r"data_offsets: shape \(2, 17, 6, 6\); must be"):
        dk_conv2d(x, weight, right, 3, padding=1, data_offsets=right[:, 1:])


def test_a_kernel_space_smaller_than_the_kernel_is_refused(path):
    x, weight = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 2, 3)
    for size in ((1, 1), (6, 6)):
        with pytest.raises(ValueError, match=r"kernel space of \(2, 3\); must not be smaller"):
            dk_conv2d(x, weight, torch.zeros(1, 18, *size), 3, padding=1)
