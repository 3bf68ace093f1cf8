import math

import torch

from mmlearnconv.ops import orthogonality, repulsion


def positions(*points):
    """One kernel's elements, (2, 1, 1, count)."""
    return torch.tensor(points, dtype=torch.double).T[:, None, None].requires_grad_()


def test_repulsion_by_hand():
    # Distances 0.5, 3 and sqrt(0.25 + 9): one of three pairs is nearer than 1, by 0.5.
    p = positions((0, 0), (0.5, 0), (0, 3))
    value = repulsion(p)
    assert abs(value.item() - 0.5 / 3) < 1e-12
    value.backward()
    # The pair is pushed apart along the row, each by a third.
    expected = positions((1 / 3, 0), (-1 / 3, 0), (0, 0)).detach()
    torch.testing.assert_close(p.grad, expected)
    # Nearer than 4: 3.5, 1 and 4 - sqrt(9.25).
    assert abs(repulsion(p, 4).item() - (3.5 + 1 + 4 - math.sqrt(9.25)) / 3) < 1e-12


def test_repulsion_is_a_mean_over_kernels():
    p = torch.randn(2, 4, 3, 5, dtype=torch.double)
    each = [repulsion(p[:, o : o + 1, i : i + 1]) for o in range(4) for i in range(3)]
    torch.testing.assert_close(repulsion(p), torch.stack(each).mean())


def test_elements_on_each_other_have_no_direction():
    p = positions((1, 1), (1, 1))
    value = repulsion(p)
    value.backward()
    assert value == 1
    assert torch.equal(p.grad, torch.zeros_like(p))


def test_gradients():
    p = torch.randn(2, 2, 2, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: repulsion(p, 1.5), p)
    k = torch.randn(3, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(orthogonality, k)


def test_orthogonality_by_hand():
    assert orthogonality(torch.eye(3)[:, :, None]) == 0
    # K K^T - I = [[3, 2], [2, 0]].
    kernel = torch.tensor([[2.0, 0], [1, 0]])
    assert orthogonality(kernel) == (9 + 4 + 4 + 0) / 4


def test_half_precision_is_not_enough_for_either():
    p = torch.randn(2, 2, 2, 4).bfloat16()
    assert repulsion(p).dtype == torch.float32
    assert orthogonality(torch.randn(3, 4).bfloat16()).dtype == torch.float32
