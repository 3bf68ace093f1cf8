"""DK: options and starts beyond the contract."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlearnconv.layers import DeformableKernelConv2d
from mmlearnconv.surgery import build_conv


@pytest.mark.parametrize("kind", ["DK", "DeformableKernelConv2d", DeformableKernelConv2d])
def test_the_default_form_is_local_where_depthwise(kind):
    def mode(*arguments, **options):
        own = {k: options.pop(k) for k in ("mode",) if k in options}
        return build_conv(dict(type=kind, **own), *arguments, **options).mode

    assert mode(4, 4, 3, groups=4) == "local"
    assert mode(4, 8, 3, groups=4) == mode(4, 4, 3) == "global"
    assert mode(4, 4, 3, mode="local") == "local"


@pytest.mark.parametrize(("kernel", "scope"), [(1, 2), (3, 4), (5, 6)])
def test_default_scope(kernel, scope):
    assert DeformableKernelConv2d(4, 4, kernel).weight.shape[2:] == (scope, scope)


def test_offsets_learn_slowly():
    conv = DeformableKernelConv2d(4, 4, 3, data_offset=True, offset_lr_mult=0.1)
    names = {"offset_weight", "offset_bias", "data_offset_weight", "data_offset_bias"}
    assert conv.optim_policy == {name: dict(lr_mult=0.1) for name in names}


def test_the_kernel_follows_the_image():
    conv = DeformableKernelConv2d(4, 4, 3, padding=1, mode="global").double()
    nn.init.normal_(conv.offset_weight)
    x = torch.randn(2, 4, 8, 8, dtype=torch.double)
    swapped = conv(x.flip(0)).flip(0)
    torch.testing.assert_close(conv(x), swapped)
    alone = conv(x[:1])
    torch.testing.assert_close(alone, conv(x)[:1])


@pytest.mark.parametrize("wrong", [dict(mode="both"), dict(scope=2), dict(num_experts=0)], ids=str)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeformableKernelConv2d(4, 4, 3, **wrong)


def test_memory_of_the_local_form_does_not_grow_with_the_scope():
    """No tensor of channels times scope cells times locations, forward or backward."""
    from tests.ops.test_dcls import LargestTensor

    conv = DeformableKernelConv2d(64, 64, 3, padding=1, groups=64, scope=9)
    x = torch.randn(1, 64, 96, 96, requires_grad=True)
    with LargestTensor() as largest:
        conv(x).sum().backward()
    assert largest.numel < 64 * 81 * 96 * 96 / 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_no_float32_copy_of_the_map_is_kept(dtype):
    layer = DeformableKernelConv2d(64, 64, 3, padding=1, groups=64, data_offset=True)
    x = torch.randn(2, 64, 20, 20, requires_grad=True)
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with torch.autocast("cpu", dtype=dtype), keep:
        # As after a convolution under autocast.
        layer(x.to(dtype) * 1)
    assert [t for t in saved if t.dtype == dtype and t.shape == x.shape]
    assert not [t for t in saved if t.dtype == torch.float32 and t.shape == x.shape]


@pytest.mark.parametrize("kernel", [1, (1, 3), (3, 1)])
def test_offsets_along_an_axis_of_one_tap_can_learn(kernel):
    """From a plain kernel: a space that is constant along the axis would never move the tap."""
    layer = DeformableKernelConv2d(4, 8, kernel)
    weight = torch.randn(layer.conv_weight_shape)
    layer.load_conv_weight_(weight)
    x = torch.randn(2, 4, 6, 7)
    output = layer(x)
    torch.testing.assert_close(output, F.conv2d(x, weight, layer.bias), rtol=0, atol=1e-5)
    (output * torch.randn_like(output)).sum().backward()
    assert (layer.offset_bias.grad.abs() > 1e-3).all()
