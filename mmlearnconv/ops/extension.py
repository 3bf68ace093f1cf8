"""The compiled operations, where they were built; PyTorch's own do the work without them."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_BUILD = "build them with `pip install -e . --no-build-isolation` (it needs a C++ compiler)"


def is_compiled() -> bool:
    """Whether the compiled operations are there."""
    return _COMPILED


def _load() -> bool:
    """Load the compiled operations, or warn why not."""
    if os.environ.get("MMLEARNCONV_WITHOUT_OPS") == "1":
        return False
    paths = sorted(Path(__file__).parent.glob("_ext*.so"))
    if not paths:
        warnings.warn(
            f"mmlearnconv's compiled operations are not built, PyTorch's are slower: {_BUILD}",
            stacklevel=3,
        )
        return False
    try:
        torch.ops.load_library(paths[0])
    except OSError as error:
        warnings.warn(
            "mmlearnconv's compiled operations do not load, PyTorch's are slower: "
            f"{error}; {_BUILD}",
            stacklevel=3,
        )
        return False
    torch.library.register_fake("mmlearnconv::depthwise_weight_grad", _fake_weight_grad)
    torch.library.register_autograd(
        "mmlearnconv::depthwise_weight_grad",
        _weight_grad_backward,
        setup_context=_weight_grad_context,
    )
    return True


def _fake_weight_grad(
    input: Tensor,
    grad: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    return input.new_empty(input.shape[1], 1, *size)


def depthwise_input_grad(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """PyTorch's input gradient of a depthwise convolution, of any geometry."""
    return torch.ops.aten.convolution_backward(
        *(grad, input, weight, None, stride, padding, dilation, False, [0, 0], input.shape[1]),
        [True, False, False],
    )[0]


def _weight_grad_context(ctx, inputs, output) -> None:
    input, grad, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, grad)


def _weight_grad_backward(ctx, weight: Tensor) -> tuple[Tensor | None, ...]:
    """It is linear in the input and in the gradient; ``weight`` stands where the kernel would."""
    input, grad = ctx.saved_tensors
    stride, padding, dilation = ctx.geometry
    grad_input = depthwise_input_grad(grad, input, weight, stride, padding, dilation)
    grad_grad = F.conv2d(input, weight, None, stride, padding, dilation, input.shape[1])
    return grad_input, grad_grad, None, None, None, None


_COMPILED = _load()
