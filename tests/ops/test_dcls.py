import pytest
import torch
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from mmlearnconv.ops import dcls_conv2d, dcls_kernel, reference
from tests.ops.op_testing import built

IMPLEMENTATIONS = [dcls_kernel, reference.dcls_kernel]
INTERPOLATIONS = ["bilinear", "gauss", "triangle"]


def elements(size, count=4, out=3, per_group=2, spread=1.0):
    """Elements some of which reach beyond the window, none near a kink of an interpolant."""
    weight = torch.randn(out, per_group, count, dtype=torch.double)
    positions = torch.randn(len(size), *weight.shape, dtype=torch.double) * spread
    positions = positions.floor() + 0.2 + 0.25 * torch.rand_like(positions)
    width = 0.1 + 0.2 * torch.rand_like(positions)
    return weight, positions, width


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
def test_bilinear_by_hand(kernel):
    weight = torch.tensor([[[2.0]]])
    positions = torch.tensor([0.25, -0.5]).view(2, 1, 1, 1)
    expected = torch.zeros(5, 5)
    expected[2, 1] = expected[2, 2] = 2 * 0.75 * 0.5
    expected[3, 1] = expected[3, 2] = 2 * 0.25 * 0.5
    torch.testing.assert_close(kernel(weight, positions, (5, 5))[0, 0], expected)


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
def test_bilinear_overlaps_add_and_the_outside_is_dropped(kernel):
    weight = torch.tensor([[[1.0, 2.0, 4.0]]])
    # Two elements on one cell; one half a cell beyond the last row.
    positions = torch.tensor([[0.0, 0.0, 1.5], [-1.0, -1.0, 0.0]]).view(2, 1, 1, 3)
    expected = torch.zeros(3, 3)
    expected[1, 0] = 3
    expected[2, 1] = 2
    torch.testing.assert_close(kernel(weight, positions, (3, 3))[0, 0], expected)


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
def test_gauss_and_triangle_by_hand(kernel):
    weight = torch.ones(1, 1, 1, dtype=torch.double)
    positions = torch.zeros(1, 1, 1, 1, dtype=torch.double)
    width = torch.full_like(positions, -0.5)
    tent = torch.tensor([0.5, 1.5, 0.5], dtype=torch.double)
    expected = tent / (tent.sum() + 1e-7)
    torch.testing.assert_close(kernel(weight, positions, (3,), "triangle", width)[0, 0], expected)
    bell = torch.exp(-0.5 * (torch.tensor([1.0, 0.0, 1.0], dtype=torch.double) / 0.77) ** 2)
    expected = bell / (bell.sum() + 1e-7)
    torch.testing.assert_close(kernel(weight, positions, (3,), "gauss", width)[0, 0], expected)


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
def test_even_windows_count_from_the_cell_behind_the_middle(kernel):
    weight = torch.ones(1, 1, 1)
    positions = torch.tensor([-2.0, 1.0]).view(2, 1, 1, 1)
    expected = torch.zeros(4, 4)
    expected[0, 3] = 1
    torch.testing.assert_close(kernel(weight, positions, (4, 4))[0, 0], expected)


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
def test_derivative_at_integers_is_the_right_hand_one(kernel):
    weight = torch.tensor([[[3.0]]])
    positions = torch.zeros(1, 1, 1, 1, requires_grad=True)
    built = kernel(weight, positions, (3,))[0, 0]
    slopes = [torch.autograd.grad(cell, positions, retain_graph=True)[0].item() for cell in built]
    assert slopes == [0, -3, 3]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(9,), (7, 7), (5, 8), (4, 5, 3)])
def test_equals_the_definition(interpolation, size, path):
    inputs = [t.requires_grad_() for t in elements(size, spread=2.0)]
    built = dcls_kernel(*inputs[:2], size, interpolation, inputs[2])
    expected = reference.dcls_kernel(*inputs[:2], size, interpolation, inputs[2])
    torch.testing.assert_close(built, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(built)
    used = inputs[: 2 if interpolation == "bilinear" else 3]
    for ours, theirs in zip(
        torch.autograd.grad(built, used, upstream),
        torch.autograd.grad(expected, used, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_gradcheck(interpolation):
    size = (5, 4)
    weight, positions, width = (t.requires_grad_() for t in elements(size, count=3))
    if interpolation == "bilinear":
        assert gradcheck(lambda w, p: dcls_kernel(w, p, size), (weight, positions))
    else:
        assert gradcheck(
            lambda w, p, s: dcls_kernel(w, p, size, interpolation, s), (weight, positions, width)
        )


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_no_tensor_of_window_times_count(interpolation):
    channels, size, count = 8, 17, 34
    inputs = [t.requires_grad_() for t in elements((size, size), count, channels, 1)]
    with LargestTensor() as largest:
        dcls_kernel(*inputs[:2], (size, size), interpolation, inputs[2]).sum().backward()
    assert largest.numel <= channels * count * size
    with LargestTensor() as largest:
        reference.dcls_kernel(*inputs[:2], (size, size), interpolation, inputs[2])
    assert largest.numel == channels * count * size * size


@built
@pytest.mark.parametrize("size", [(5,), (5, 4), (3, 4, 5)])
def test_it_is_an_operator_like_pytorch_s(size):
    weight, positions, _ = elements(size)
    arguments = weight.requires_grad_(), positions.requires_grad_(), list(size)
    torch.library.opcheck(torch.ops.mmlearnconv.dcls_kernel.default, arguments)


@pytest.mark.parametrize("kernel", IMPLEMENTATIONS)
@pytest.mark.parametrize("location", [float("inf"), -float("inf"), -1e30])
def test_elements_that_are_nowhere_are_dropped(kernel, location):
    weight, positions, _ = elements((5, 5))
    positions[0, 0, 0, 0] = location
    built = kernel(weight, positions, (5, 5))
    weight[0, 0, 0] = 0
    positions[0, 0, 0, 0] = 0
    torch.testing.assert_close(built, kernel(weight, positions, (5, 5)))


def test_wrong_arguments_are_named():
    weight, positions, width = elements((5, 5))
    x = torch.randn(1, 3, 8, 8, dtype=torch.double)
    with pytest.raises(ValueError, match="positions: shape"):
        dcls_conv2d(x, weight[:, :1], positions[:, :, :1, :1], (5, 5), groups=3)
    own = weight[:, :1], positions[:, :, :1]
    with pytest.raises(ValueError, match="width: shape"):
        dcls_conv2d(x, *own, (5, 5), groups=3, width=width[:1])
    with pytest.raises(ValueError, match="positions"):
        dcls_kernel(weight, positions, (5, 5, 5))
    with pytest.raises(ValueError, match="width"):
        dcls_kernel(weight, positions, (5, 5), "gauss", width[:1])
    with pytest.raises(ValueError, match="'cubic'"):
        dcls_kernel(weight, positions, (5, 5), "cubic")
