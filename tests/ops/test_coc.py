"""Kernels that are associated and made orthonormal."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmlearnconv.ops import associate_kernels, orthogonalize, reference, standardize
from tests.ops.op_testing import double


@pytest.mark.parametrize(("association", "out"), [(2, 8), (2, 6), (3, 10), (4, 16)])
@pytest.mark.parametrize("skip", [True, False])
def test_association_by_hand(association, out, skip):
    """Each cell of the sheet, summed over the super kernel's taps, one by one."""
    sheets = math.ceil(out / association**2)
    weight = torch.randn(out, 3, 2, 3, **double)
    super_weight = torch.randn(1, sheets, 3, 3, **double)
    ours = associate_kernels(weight, super_weight, association, (2, 2), skip)
    height, width = association * 2, association * 3

    def cell(sheet, channel, row, column):
        if not (0 <= row < height and 0 <= column < width):
            return 0.0
        number = sheet * association**2 + row // 2 * association + column // 3
        return weight[number, channel, row % 2, column % 3].item() if number < out else 0.0

    for number, channel, row, column in itertools.product(range(out), range(3), range(2), range(3)):
        sheet, number_on_sheet = divmod(number, association**2)
        y = number_on_sheet // association * 2 + row
        x = number_on_sheet % association * 3 + column
        expected = cell(sheet, channel, y, x) if skip else 0.0
        for u, v in itertools.product(range(3), repeat=2):
            tap = super_weight[0, sheet, u, v].item()
            expected += tap * cell(sheet, channel, y + 2 * (u - 1), x + 2 * (v - 1))
        assert ours[number, channel, row, column].item() == pytest.approx(expected)


def test_association_gradcheck():
    weight = torch.randn(6, 2, 3, 3, **double, requires_grad=True)
    super_weight = torch.randn(2, 2, 3, 3, **double, requires_grad=True)
    assert gradcheck(lambda w, s: associate_kernels(w, s, 2, (2, 2), True), (weight, super_weight))


def test_standardize():
    weight = torch.randn(4, 3, 3, 3, **double, requires_grad=True)
    gain, mean = (torch.randn(4, **double, requires_grad=True) for _ in range(2))
    kernel = standardize(weight, gain, mean).flatten(1)
    torch.testing.assert_close(kernel.mean(1), mean)
    torch.testing.assert_close(kernel.std(1, correction=0), gain.abs(), rtol=1e-4, atol=0)
    assert gradcheck(standardize, (weight, gain, mean))


def conditioned(filters, numbers, condition):
    """A float32 kernel whose singular values fall from 1 to 1 / condition."""
    left = torch.linalg.qr(torch.randn(filters, filters, dtype=torch.double))[0]
    right = torch.linalg.qr(torch.randn(numbers, filters, dtype=torch.double))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), filters, dtype=torch.double)
    return (left * values @ right.T).float()


def distance(rows):
    return (rows @ rows.T - torch.eye(len(rows))).abs().max().item()


# HRNet's fuse layers are 3x3, 18 -> 144: 144 filters of 162 elements; two shapes are square.
SHAPES = [(8, 72), (64, 576), (144, 162), (144, 144), (256, 2304), (1, 9), (3, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("condition", [1, 10, 1e3, 1e5])
def test_filters_are_orthonormal_in_float32(shape, condition):
    weight = conditioned(*shape, condition)
    rows = orthogonalize(weight)
    assert distance(rows) < 1e-5
    torch.testing.assert_close(
        rows, reference.orthogonalize(weight.double()).float(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_filters_of_a_random_start_are_orthonormal(shape):
    assert distance(orthogonalize(torch.randn(shape))) < 1e-5


def test_the_kernel_s_own_shape_and_dtype_stay():
    weight = torch.randn(4, 3, 3, 2)
    assert orthogonalize(weight).shape == weight.shape
    for dtype in (torch.bfloat16, torch.half):
        built = orthogonalize(weight.to(dtype))
        assert built.dtype == dtype
        torch.testing.assert_close(built.float(), orthogonalize(weight), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_autocast_does_not_touch_the_kernel(dtype):
    """Nor its gradient, with the backward pass inside."""
    weight = conditioned(18, 144, 1e3).requires_grad_()
    upstream = torch.randn(18, 144)
    (expected,) = torch.autograd.grad(orthogonalize(weight), weight, upstream)
    with torch.autocast("cpu", dtype=dtype):
        rows = orthogonalize(weight)
        (grad,) = torch.autograd.grad(rows, weight, upstream)
    assert distance(rows.detach()) < 1e-5
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("shape", [(5, 9), (6, 6), (1, 4)], ids=str)
def test_gradient(shape):
    """Also where all singular values are one: singular vectors have no derivative there."""
    for weight in (torch.randn(shape), torch.linalg.qr(torch.randn(shape[::-1]))[0].T):
        assert gradcheck(orthogonalize, (weight.double().requires_grad_(),))


@pytest.mark.parametrize("condition", [10, 1e3])
def test_gradient_in_float32_is_float64_s(condition):
    weight, upstream = conditioned(64, 100, condition), torch.randn(64, 100)
    grads = []
    for function, dtype in ((orthogonalize, torch.float), (reference.orthogonalize, torch.double)):
        leaf = weight.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(function(leaf), leaf, upstream.to(dtype))
        grads.append(grad.double())
    assert (grads[0] - grads[1]).norm() < 1e-4 * grads[1].norm()


def test_filters_without_a_direction_are_finite():
    """Training does not start there, but a kernel of zeros must not become one of NaN."""
    repeated = torch.randn(1, 9).expand(4, 9)
    for weight in (torch.zeros(4, 9), repeated):
        leaf = weight.clone().requires_grad_()
        rows = orthogonalize(leaf)
        rows.square().sum().backward()
        assert rows.isfinite().all()
        assert leaf.grad.isfinite().all()
    torch.testing.assert_close(orthogonalize(repeated).norm(), torch.tensor(1.0))


def test_more_filters_than_numbers_are_refused():
    with pytest.raises(ValueError, match=r"weight: shape \(5, 2, 2\); 5 filters of 4 elements"):
        orthogonalize(torch.randn(5, 2, 2))


def test_it_is_an_operator_like_pytorch_s():
    weight = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    torch.library.opcheck(torch.ops.mmlearnconv.orthogonalize.default, (weight,))


def test_layer_norms_of_the_released_code_by_hand():
    """Four 1x1 kernels on a sheet of 2x2, and a super kernel of 3x3."""
    weight, kernel = torch.randn(4, 2, 1, 1), torch.randn(1, 1, 3, 3)
    gain, mean = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    found = associate_kernels(weight, kernel, 2, (1, 1), True, (gain, mean))
    standard = (kernel - kernel.mean()) / (kernel.std() + 1e-5)
    for channel in range(2):
        sheet = weight[:, channel].view(1, 1, 2, 2)
        moved = F.conv2d(sheet, standard[0, None], padding=1)
        moved = (moved - moved.mean()) / (moved.var(correction=0) + 1e-5).sqrt()
        expected = moved * gain[0] + mean[0] + sheet
        torch.testing.assert_close(found[:, channel].view(2, 2), expected[0, 0])
