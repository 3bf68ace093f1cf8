"""Depthwise convolution by lists of taps: its definition, and the compiled operation against it."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from mmlearnconv.ops import depthwise_taps, reference
from tests.ops.op_testing import assert_equals_definition, both_formats, built, geometries


def cases(count):
    for rng, case in geometries(2, count, most=9, channels=(1, 3, 16, 17, 33)):
        yield case | dict(
            multiplier=rng.choice([1, 1, 2, 3]),
            taps=rng.choice([1, 5, 8, 20]),
            bias=rng.random() < 0.5,
        )


def tensors_of(case):
    """Input, values, cells and bias, in float64."""
    channels, size = case["shape"][1], case["size"]
    lists = (channels, case["multiplier"], case["taps"])
    x = torch.randn(case["shape"], dtype=torch.double)
    values = torch.randn(lists, dtype=torch.double)
    cells = torch.stack([torch.randint(n, lists) for n in size], -1)
    bias = torch.randn(channels * case["multiplier"], dtype=torch.double) if case["bias"] else None
    return x, values, cells, bias


def test_definition_by_hand():
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    values = torch.tensor([[[10.0, 100.0], [1.0, 1.0]]])
    # The cells left and right of the middle; twice the middle.
    cells = torch.tensor([[[[0, 0], [0, 2]], [[0, 1], [0, 1]]]])
    for function in (reference.depthwise_taps, depthwise_taps):
        found = function(x, values, cells, (1, 3), torch.tensor([0.5, 0.0]), (1, 1), (0, 1), (1, 1))
        expected = torch.tensor([[[[200.5, 310.5, 20.5]], [[2.0, 4.0, 6.0]]]])
        torch.testing.assert_close(found, expected)


def test_all_cells_are_a_dense_kernel():
    x, weight = torch.randn(2, 4, 9, 8), torch.randn(4, 1, 3, 5)
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(5)).expand(4, 1, -1, 2)
    found = depthwise_taps(x, weight.flatten(2), cells, (3, 5), None, (2, 1), (1, 4), (1, 2))
    torch.testing.assert_close(found, F.conv2d(x, weight, None, (2, 1), (1, 4), (1, 2), 4))


@pytest.mark.parametrize("case", list(cases(60)), ids=str)
@both_formats
def test_equals_its_definition(case, memory_format):
    x, values, cells, bias = tensors_of(case)

    def call(function):
        return lambda x, values, bias=None: function(
            x, values, cells, case["size"], bias, *case["geometry"]
        )

    ours, definition = call(depthwise_taps), call(reference.depthwise_taps)
    tensors = [x, values] if bias is None else [x, values, bias]
    assert_equals_definition(ours, definition, tensors, memory_format)


@built
def test_it_is_an_operator_like_pytorch_s():
    case = dict(shape=(2, 3, 7, 8), multiplier=2, taps=4, bias=True, size=(3, 4))
    x, values, cells, bias = tensors_of(case)
    inputs = [t.requires_grad_() for t in (x, values, bias)]
    operator = torch.ops.mmlearnconv.depthwise_taps
    for stride in ([1, 1], [2, 1]):
        size = [-(-7 // stride[0]), 8]
        geometry = (size, stride, [1, 2], [1, 1])
        torch.library.opcheck(operator.default, (x, values, cells, bias, *geometry))
        last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        torch.library.opcheck(operator.default, (last, values, cells, bias, *geometry))

        def call(x, values, bias, geometry=geometry):
            return operator(x, values, cells, bias, *geometry)

        assert gradcheck(call, inputs)


@built
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_single(dtype):
    x, values, cells, _ = tensors_of(
        dict(shape=(1, 5, 20, 30), multiplier=1, taps=50, bias=False, size=(9, 9))
    )
    x, values = x.to(dtype), values.float()
    geometry = ((9, 9), None, (1, 1), (4, 4), (1, 1))
    found = depthwise_taps(x, values, cells, *geometry)
    expected = reference.depthwise_taps(x.double(), values.double(), cells, *geometry)
    assert found.dtype == dtype
    # One rounding, of the result.
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@built
def test_places_beyond_the_map_are_zeros_however_far():
    x = torch.ones(1, 2, 4, 4)
    far = torch.tensor([[-(10**12), 0], [0, 10**12], [5, 5], [0, 0]]).expand(2, 1, -1, 2)
    values = torch.ones(2, 1, 4)
    found = torch.ops.mmlearnconv.depthwise_taps(
        x, values, far, None, [4, 4], [1, 1], [0, 0], [1, 1]
    )
    torch.testing.assert_close(found, x)


@built
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 4, 4)), r"input \[3, 4, 4\] must be"),
        (dict(values=torch.zeros(4, 1, 2)), r"values \[4, 1, 2\] must be"),
        (dict(cells=torch.zeros(3, 1, 2, 2)), "of Float must be"),
        (dict(bias=torch.zeros(2)), r"bias \[2\] must be \(3\)"),
        (dict(stride=[0, 1]), "stride .* must be positive"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(
        x=torch.zeros(2, 3, 4, 4),
        values=torch.zeros(3, 1, 2),
        cells=torch.zeros(3, 1, 2, 2, dtype=torch.long),
        bias=None,
        output_size=[4, 4],
        stride=[1, 1],
        padding=[0, 0],
        dilation=[1, 1],
    )
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mmlearnconv.depthwise_taps(*(arguments | change).values())


@built
def test_its_multiply_adds_are_counted():
    with FlopCounterMode(display=False) as counter:
        depthwise_taps(
            torch.zeros(2, 3, 8, 8),
            torch.zeros(3, 2, 5),
            torch.zeros(3, 2, 5, 2, dtype=torch.long),
            (1, 1),
            None,
            (2, 1),
        )
    assert counter.get_total_flops() == 2 * (2 * 6 * 4 * 8) * 5
