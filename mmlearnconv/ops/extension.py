"""The compiled operations, where they were built; PyTorch's own do the work without them."""

import os
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .autograd import differentiable, once
from .layout import empty_like

_BUILD = "build them with `pip install -e . --no-build-isolation` (it needs a C++ compiler)"

_OPERATORS = (
    "dcls_kernel",
    "dcls_kernel_backward",
    "depthwise_weight_grad",
    "depthwise_taps",
    "depthwise_taps_backward",
    "dk_depthwise",
    "dk_depthwise_backward",
    "dk_columns",
    "dk_columns_backward",
    "drconv_features",
    "drconv_features_backward",
    "drconv_inner",
)


def operator(name: str) -> Callable:
    """A compiled operator that has a derivative, as a function."""
    return _functions[name]


def is_compiled() -> bool:
    """Whether the compiled operations are there."""
    return _COMPILED


def has_kernels(tensor: Tensor) -> bool:
    """Whether the compiled operations have kernels for the tensor's device.

    Not in a trace, by which complexity is counted: it does not see into operators.
    """
    return _COMPILED and tensor.device.type in _DEVICES and not torch.jit.is_tracing()


def _load() -> bool:
    """Load the compiled operations, or warn why not."""
    if os.environ.get("MMLEARNCONV_WITHOUT_OPS") == "1":
        return False
    folder = Path(__file__).parent
    # A checkout may hold builds for several Pythons, and for the PyTorch of each.
    paths = [p for suffix in EXTENSION_SUFFIXES if (p := folder / f"_ext{suffix}").is_file()]
    if not paths:
        others = ", ".join(path.name for path in sorted(folder.glob("_ext*.so")))
        state = f"built for another Python ({others})" if others else "not built"
        warnings.warn(
            f"mmlearnconv's compiled operations are {state}, PyTorch's are slower: {_BUILD}",
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
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.mmlearnconv, name)]
    if missing:
        warnings.warn(
            f"mmlearnconv's compiled operations in {paths[0]} are older than this code (no "
            f"{missing[0]}), PyTorch's are slower: {_BUILD}",
            stacklevel=3,
        )
        return False
    _register()
    return True


def _register() -> None:
    """What PyTorch has to know of the operators beside their kernels."""
    library = torch.library
    library.register_fake(
        "mmlearnconv::dcls_kernel",
        lambda weight, _, size: weight.new_empty(*weight.shape[:2], *size),
    )
    library.register_fake(
        "mmlearnconv::dcls_kernel_backward",
        lambda _, weight, positions, __: (
            weight.new_empty(weight.shape),
            positions.new_empty(positions.shape),
        ),
    )
    library.register_fake("mmlearnconv::depthwise_weight_grad", _fake_weight_grad)
    library.register_fake("mmlearnconv::depthwise_taps", _fake_taps)
    library.register_fake("mmlearnconv::depthwise_taps_backward", _fake_taps_backward)
    library.register_fake("mmlearnconv::dk_depthwise", _fake_dk_depthwise)
    library.register_fake("mmlearnconv::dk_depthwise_backward", _fake_dk_depthwise_backward)
    library.register_fake("mmlearnconv::dk_columns", lambda *_: None)
    library.register_fake("mmlearnconv::dk_columns_backward", lambda *_: None)
    library.register_fake("mmlearnconv::drconv_features", lambda *_: None)
    library.register_fake("mmlearnconv::drconv_features_backward", lambda *_: None)
    library.register_fake(
        "mmlearnconv::drconv_inner",
        lambda products, input, pattern, *_: input.new_empty(products.shape[0], pattern.shape[1]),
    )
    # A multiply-add is two operations to PyTorch's counter.
    register_flop_formula(torch.ops.mmlearnconv.depthwise_taps)(
        lambda _, values, *rest, out_shape, **__: 2 * prod(out_shape) * values[2]
    )
    # Four cells a tap.
    register_flop_formula(torch.ops.mmlearnconv.dk_depthwise)(
        lambda _, __, offsets, *rest, out_shape, **___: 5 * prod(out_shape) * offsets[1]
    )
    register_flop_formula(torch.ops.mmlearnconv.dk_columns)(
        lambda _, offsets, *rest, **__: 4 * rest[-1][0] * rest[-1][2] * offsets[1]
    )


def _dcls_kernel_context(ctx, inputs, output) -> None:
    *tensors, ctx.size = inputs
    ctx.save_for_backward(*tensors)


def _dcls_kernel_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_functions["dcls_kernel_backward"](grad, *ctx.saved_tensors, ctx.size), None


def _fake_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    bias: Tensor | None,
    output_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    return empty_like(input, (input.shape[0], values.shape[0] * values.shape[1], *output_size))


def _fake_taps_backward(
    grad: Tensor,
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs_input: bool,
    needs_values: bool,
) -> tuple[Tensor, Tensor]:
    grad_input = empty_like(input, input.shape) if needs_input else input.new_empty(0)
    return grad_input, values.new_empty(values.shape if needs_values else 0)


def _taps_context(ctx, inputs, output) -> None:
    input, values, cells, bias, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, values, cells)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _taps_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs_input, needs_values = ctx.needs_input_grad[:2]
    grad_input, grad_values = _functions["depthwise_taps_backward"](
        grad, *ctx.saved_tensors, *ctx.geometry, needs_input, needs_values
    )
    return (
        grad_input if needs_input else None,
        grad_values if needs_values else None,
        None,
        grad.sum((0, 2, 3), dtype=ctx.bias_dtype) if ctx.needs_input_grad[3] else None,
        *(None,) * 4,
    )


def _fake_weight_grad(
    input: Tensor,
    grad: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    return input.new_empty(input.shape[1], 1, *size)


def _fake_dk_depthwise(
    input: Tensor, space: Tensor, offsets: Tensor, *_: Tensor | list[int] | None
) -> Tensor:
    return empty_like(input, (input.shape[0], input.shape[1], *offsets.shape[2:]))


def _fake_dk_depthwise_backward(
    grad: Tensor,
    input: Tensor,
    space: Tensor,
    offsets: Tensor,
    data_offsets: Tensor | None,
    *_: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(input.dtype, torch.float32)
    grad_offsets = offsets.new_empty(offsets.shape, dtype=dtype)
    grad_data = grad_offsets.new_empty(0 if data_offsets is None else offsets.shape)
    return empty_like(input, input.shape), space.new_empty(space.shape), grad_offsets, grad_data


def _dk_depthwise_context(ctx, inputs, output) -> None:
    *tensors, kernel_size, stride, padding, dilation = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = kernel_size, stride, padding, dilation


def _dk_depthwise_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    _, _, offsets, data_offsets = ctx.saved_tensors
    *gradients, grad_offsets, grad_data = _functions["dk_depthwise_backward"](
        grad, *ctx.saved_tensors, *ctx.geometry
    )
    return (
        *gradients,
        grad_offsets.to(offsets.dtype),
        None if data_offsets is None else grad_data.to(data_offsets.dtype),
        *(None,) * 4,
    )


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


def _differentiated() -> dict[str, Callable]:
    """The operators that have derivatives, as functions."""
    formulas = {
        "dcls_kernel": (_dcls_kernel_backward, _dcls_kernel_context),
        "depthwise_weight_grad": (_weight_grad_backward, _weight_grad_context),
        "depthwise_taps": (_taps_backward, _taps_context),
        "dk_depthwise": (_dk_depthwise_backward, _dk_depthwise_context),
    }
    functions = {name: differentiable(name, *formula) for name, formula in formulas.items()}
    for name in ("dcls_kernel_backward", "depthwise_taps_backward", "dk_depthwise_backward"):
        functions[name] = once(name)
    return functions


_COMPILED = _load()
_functions = _differentiated() if _COMPILED else {}
_DEVICES = [
    key.lower()
    for key in ("CPU", "CUDA")
    if _COMPILED
    and torch._C._dispatch_has_kernel_for_dispatch_key("mmlearnconv::depthwise_taps", key)
]
