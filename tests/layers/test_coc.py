"""CoC: options and starts beyond the contract."""

import pytest
import torch
from torch import nn

from mmlearnconv.layers import CoCConv2d
from mmlearnconv.surgery import build_conv


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
def test_super_kernels_as_published(kernel, dilated, shape, dilation):
    conv = CoCConv2d(4, 8, kernel, dilated=dilated)
    assert conv.super_weight.shape == (1, 2, *shape)
    assert conv.super_dilation == dilation


def test_kernels_of_a_sheet_learn_from_each_other():
    conv = CoCConv2d(2, 8, 3)
    nn.init.normal_(conv.super_weight)
    conv(torch.randn(1, 2, 9, 9))[:, 0].sum().backward()
    reached = conv.weight.grad.abs().sum((1, 2, 3)) > 0
    assert reached.tolist() == [True] * 4 + [False] * 4


def test_orthogonal_filters():
    conv = build_conv(dict(type="ConvOrth"), 8, 16, 3)
    rows = conv.dense_kernel().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), rtol=0, atol=1e-3)


def test_orthogonal_filters_that_cannot_be():
    with pytest.raises(ValueError, match=r"32 > 1 \* 3 \* 3 = 9"):
        build_conv(dict(type="ConvOrth"), 32, 32, 3, groups=32)


def test_a_plain_kernel_cannot_be_orthogonal():
    conv = build_conv(dict(type="ConvOrth"), 4, 4, 3)
    with pytest.raises(RuntimeError, match="not orthonormal"):
        conv.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())


def test_orthogonal_filters_load_their_own_checkpoint():
    conv, other = (build_conv(dict(type="ConvOrth"), 4, 4, 3) for _ in range(2))
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other.dense_kernel(), conv.dense_kernel())


def test_folds_to_the_same_geometry():
    conv = CoCConv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect")
    nn.init.normal_(conv.super_weight)
    dense = conv.to_conv()
    assert dense.weight.shape == (6, 4, 3, 3)
    x = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(dense(x), conv(x))


@pytest.mark.parametrize(
    "wrong", [dict(association=0), dict(super_layers=0), dict(normalize="weight")], ids=str
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CoCConv2d(4, 4, 3, **wrong)
