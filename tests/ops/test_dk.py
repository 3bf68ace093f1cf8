"""Local deformable kernels: the compiled operations against their definition."""

import pytest
import torch
from torch.autograd import gradcheck

from mmlearnconv.ops import dk_conv2d, reference
from mmlearnconv.ops.reference import conv_output_size
from tests.ops.sweep import assert_equals_definition, both_formats, built, geometries


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
            x, weight, offsets, case["size"], *case["geometry"], case["groups"], data_offsets
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
        found = dk_conv2d(*leaves[:3], case["size"], *case["geometry"], 2, leaves[3])
        return [found, *torch.autograd.grad(found.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr("mmlearnconv.ops.dk._TILE", 7 * 12 * 4)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@built
def test_offsets_that_are_no_numbers_read_within_bounds():
    """A diverged generator must not crash the process."""
    x, weight, offsets = (t.float() for t in tensors_of(CASE | dict(moved=False)))
    bad = torch.full_like(offsets, float("nan"))
    for own, data in ((bad, None), (offsets, bad), (offsets, torch.full_like(bad, 1e30))):
        dk_conv2d(x, weight, own, CASE["size"], *CASE["geometry"], 4, data)
    assert dk_conv2d(x, weight, bad, CASE["size"], *CASE["geometry"], 4).isnan().any()


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
