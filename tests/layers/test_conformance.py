"""What ``nn.Conv2d`` promises holds for every entry of the catalogue, on random cases.

``MMLEARNCONV_TEST_CASES`` is the number of cases per form of a layer, 20 by default:
``MMLEARNCONV_TEST_CASES=400 pytest tests/layers/test_conformance.py`` tries 5,000 and more. They
are the same in every run; a failing one is printed, and made as small as it fails.
"""

import copy
import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from mmlearnconv import ops
from mmlearnconv.layers import DRConv2d
from mmlearnconv.layers.base import CONVOLUTIONS
from tests.layers.contract import EVERY_LAYER, build

CASES = int(os.environ.get("MMLEARNCONV_TEST_CASES", "20"))
SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# On a GPU float32 would be multiplied with ten bits.
torch.backends.cudnn.allow_tf32 = False
LAYOUTS = "contiguous", "channels_last", "strided"
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def sizes(dims: int, least: int, most: int) -> st.SearchStrategy:
    number = st.integers(least, most)
    return st.one_of(number, st.tuples(*[number] * dims))


@st.composite
def geometries(draw: Any, dims: int) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inner, outer = (groups * draw(st.sampled_from([1, 2, 5])) for _ in range(2))
    if draw(st.booleans()):
        inner = outer = groups = draw(st.integers(1, 9))
    stride = draw(sizes(dims, 1, 3))
    words = ["valid"] if stride != 1 else ["valid", "same"]
    return dict(
        in_channels=inner,
        out_channels=outer,
        kernel_size=draw(sizes(dims, 1, 5 if dims < 3 else 3)),
        stride=stride,
        padding=draw(st.one_of(sizes(dims, 0, 4), st.sampled_from(words))),
        dilation=draw(sizes(dims, 1, 3)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros"] * 3 + ["reflect", "replicate", "circular"])),
    )


@st.composite
def inputs(draw: Any, dims: int) -> dict[str, Any]:
    return dict(
        batch=draw(st.integers(0, 3)),
        size=draw(st.tuples(*[st.integers(1, 14 if dims < 3 else 8)] * dims)),
        layout=draw(st.sampled_from(LAYOUTS)),
        dtype=draw(st.sampled_from(DTYPES)),
        device=draw(st.sampled_from(DEVICES)),
        seed=draw(st.integers(0, 2**31)),
    )


def make_map(channels: int, case: dict[str, Any]) -> torch.Tensor:
    shape = case["batch"], channels, *case["size"]
    if case["layout"] == "strided":
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    else:
        x = torch.randn(shape)
    if case["layout"] == "channels_last" and x.ndim in CHANNELS_LAST:
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
    return x.to(case.get("device", "cpu"), case["dtype"])


def run(conv: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and gradients, by name."""
    leaves = [x.detach().clone().requires_grad_(), *conv.parameters()]
    y = conv(leaves[0])
    # So small that the sums of it are about one, which errors are relative to.
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.double, device=y.device)
    upstream = upstream.sin().view(y.shape)
    upstream = upstream / max(1, y.numel()) ** 0.5
    grads = torch.autograd.grad(y, leaves, upstream.to(y.dtype))
    names = ["input", *(name for name, _ in conv.named_parameters())]
    return dict(output=y.detach()) | {
        f"gradient of {name}": grad for name, grad in zip(names, grads, strict=True)
    }


def assert_near(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], ulps: float
) -> None:
    assert found.keys() == expected.keys()
    for name, ours in found.items():
        theirs = expected[name]
        assert ours.shape == theirs.shape, name
        if ours.numel():
            tolerance = ulps * torch.finfo(ours.dtype).eps
            scale = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(
                *(ours.double(), theirs.double()),
                rtol=tolerance,
                atol=tolerance * scale,
                msg=lambda text, name=name: f"{name}: {text}",
            )


@EVERY_LAYER
def test_a_layer_does_what_a_convolution_does(name, layer, options):
    """Shapes, dtypes, memory, refusals; both paths agree; half precision is near float32."""
    dims = layer.spatial_dims

    @SETTINGS
    @given(geometry=geometries(dims), case=inputs(dims))
    # A map smaller than the kernel, with and without room for it; one pixel; no image.
    @example(
        geometry=dict(in_channels=2, out_channels=2, kernel_size=5),
        case=dict(batch=1, size=(3,) * dims, layout="contiguous", dtype=torch.float32, seed=0),
    )
    @example(
        geometry=dict(in_channels=2, out_channels=2, kernel_size=5, padding=2),
        case=dict(batch=2, size=(1,) * dims, layout="channels_last", dtype=torch.bfloat16, seed=0),
    )
    @example(
        geometry=dict(in_channels=4, out_channels=8, kernel_size=3, groups=2),
        case=dict(batch=0, size=(9, 7, 8)[:dims], layout="strided", dtype=torch.float16, seed=0),
    )
    def check(geometry, case):
        torch.manual_seed(case["seed"])
        x = make_map(geometry["in_channels"], case)
        plain = CONVOLUTIONS[dims](**geometry).to(x)
        conv = build(layer, geometry, options)
        if conv is None:
            return
        with torch.no_grad():
            for parameter in conv.parameters():
                # Away from whole positions, where interpolation has kinks.
                parameter.add_(torch.empty_like(parameter).uniform_(0.02, 0.06))
        conv = conv.to(x.device)
        exact = copy.deepcopy(conv)
        conv = conv.to(x.dtype)
        try:
            expected = plain(x)
        except RuntimeError:
            with pytest.raises((RuntimeError, ValueError)):
                conv(x)
            return
        before = x.clone()
        found = run(conv, x)
        assert found["output"].shape == expected.shape
        assert found["output"].dtype == expected.dtype
        assert torch.equal(x, before)
        assert all(value.isfinite().all() for value in found.values())
        if case["layout"] == "contiguous":
            assert found["output"].is_contiguous()
        elif (
            case["layout"] == "channels_last"
            and x.ndim == 4
            # Explicit padding makes PyTorch's own maps contiguous.
            and conv.padding_mode == "zeros"
            and len(x)
        ):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                if expected.is_contiguous(memory_format=memory_format):
                    assert found["output"].is_contiguous(memory_format=memory_format)
        with ops.without_extension():
            assert_near(run(conv, x), found, 64)
        # Where two regions' guides are nearly equal, rounding chooses the other one.
        if x.dtype in (torch.float16, torch.bfloat16) and layer is not DRConv2d:
            # Rounded parameters and inputs, computed in float32.
            exact.load_state_dict({k: v.float() for k, v in conv.state_dict().items()})
            rounded = run(exact, x.float())
            assert_near(dict(output=found["output"]), dict(output=rounded["output"]), 16)

    check()
