"""How often operations launch something on a GPU: on a GPU, or on the emulator of one."""

import pytest
import torch

from mmlearnconv import ops
from mmlearnconv.ops.dispatch import tile_numel
from mmlearnconv.ops.extension import has_kernels_for
from tests.ops.op_testing import DEVICE

pytestmark = pytest.mark.skipif(
    not has_kernels_for(DEVICE, "drconv_gather"), reason="there are no operations of a GPU"
)

# Views and memory; everything else of PyTorch's launches something.
VIEWS = """
_has_same_storage_numel _reshape_alias _to_copy _unsafe_view adjoint alias as_strided
as_strided_ chunk clone contiguous detach empty empty_like empty_strided expand expand_as
flatten is_nonzero item lift_fresh mT movedim narrow new_empty new_empty_strided numpy_T permute
promote_types reshape resize_ resolve_conj resolve_neg result_type select set_ slice split
split_with_sizes squeeze swapaxes t to transpose unbind unflatten unsqueeze view view_as
"""
NOTHING = {f"aten::{name}" for name in VIEWS.split()}
# What PyTorch's CPU operators make of smaller ones, and its CUDA operators do in so many.
KNOWN = {
    "aten::index_add_": 1,
    "aten::convolution": 1,
    "aten::convolution_backward": 2,
    "aten::_softmax": 1,
    # And makes its argument contiguous.
    "aten::_softmax_backward_data": 2,
    "aten::bmm": 1,
    "aten::mm": 1,
    "aten::cat": 1,
    "aten::max": 1,
}


def launches(events):
    """How many launches these events and those below them stand for."""
    count = 0
    for event in events:
        if event.name in KNOWN:
            count += KNOWN[event.name]
            continue
        below = launches(event.cpu_children)
        own = event.name.startswith("aten::") and event.name not in NOTHING
        count += below or own or event.name == "cudaLaunchKernel"
    return count


def launches_of(function):
    """On a GPU as CUDA counts them; on the emulator its own and PyTorch's operators."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if DEVICE == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        function()
    if DEVICE == "cuda":
        return sum(event.name.startswith(("cudaLaunch", "cuLaunch")) for event in profile.events())
    return launches(event for event in profile.events() if event.cpu_parent is None)


def dcls():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(8, 1, 5), torch.randn(2, 8, 1, 5)]
    return lambda *t: ops.dcls_conv2d(*t, (7, 7), padding=3, groups=8), tensors


def depthwise():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(8, 1, 7, 7)]
    return lambda *t: ops.depthwise_conv2d(*t, padding=3), tensors


def dk():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(8, 8, 4, 4), torch.randn(2, 18, 10, 12)]
    return lambda *t: ops.dk_conv2d(*t, 3, padding=1), tensors


def dk_depthwise():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(8, 1, 4, 4), torch.randn(2, 18, 10, 12)]
    return lambda *t: ops.dk_conv2d(*t, 3, padding=1, groups=8), tensors


def dke():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(8, 8, 9), torch.rand(8, 9, 2)]
    tensors.append(torch.rand(2, 9, 10, 12))
    function = ops.dke_conv2d
    return lambda x, w, y, a: function(x, w, y, (7, 7), padding=3, attention=a), tensors


def drconv():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(2, 8, 10, 12), torch.randn(2, 8, 3, 3)]
    tensors += [torch.randn(8, 8, 8), torch.randn(8, 8, 8)]
    return lambda *t: ops.drconv2d_factorised(*t, padding=1), tensors


def drconv_1x1():
    tensors = [torch.randn(2, 8, 10, 12), torch.randn(2, 8, 10, 12), torch.randn(2, 8, 1, 1)]
    tensors += [torch.randn(8, 8, 8), torch.randn(8, 8, 8)]
    return ops.drconv2d_factorised, tensors


@pytest.mark.parametrize("make", [dcls, depthwise, dk, dk_depthwise, dke, drconv, drconv_1x1])
def test_few_launches(make):
    function, tensors = make()
    leaves = [t.requires_grad_() for t in tensors]
    function(*leaves)
    outputs = []
    forward = launches_of(lambda: outputs.append(function(*leaves)))
    (output,) = outputs
    grad = torch.ones_like(output)
    backward = launches_of(lambda: torch.autograd.grad(output, leaves, grad))
    assert forward <= 12
    assert backward <= 25


def test_a_map_of_2x256x50x76_is_one_tile():
    """DK's columns of 16 cells, DKE's of 9 points, DRConv's products with 8 regions."""
    values = 2 * 256 * 50 * 76
    assert max(16, 9, 2 * 8) * values <= tile_numel(torch.empty(0), 0)
