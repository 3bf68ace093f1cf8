"""Device, precision and memory format: what every operation asks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import UserValueError
from . import extension

# Device


def is_cpu(tensor: Tensor) -> bool:
    """Whether values may be read on the host: on a GPU this synchronises and breaks CUDA graphs."""
    return tensor.device.type == "cpu"


def use_compiled(tensor: Tensor) -> bool:
    """Whether the compiled operations run on this tensor's device.

    False in a trace, in which complexity is counted: it does not record what an operator does.
    """
    device = tensor.device.type
    if device == "cuda" and not torch.compiler.is_compiling():
        extension.warn_if_not_built_for_cuda()
    return extension.has_kernels_for(device) and not torch.jit.is_tracing()


def check_devices(**tensors: Tensor | None) -> None:
    """Raise if tensors lie on several devices: a kernel would read what is not there.

    Args:
        **tensors: the tensors by the names of the arguments; the others have to be where the first
            is.

    Raises:
        ValueError: a tensor is on another device than the first.
    """
    (first, tensor), *others = tensors.items()
    for name, other in others:
        if other is not None and other.device != tensor.device:
            raise UserValueError(
                f"{name}: on {other.device}; must be on {tensor.device}, as {first} is"
            )


def tile_numel(tensor: Tensor, on_cpu: int) -> int:
    """How many elements the workspace of one tile may have: a GPU's launches cost more than memory.

    Args:
        tensor: on the device.
        on_cpu: as many as its cache takes.
    """
    return on_cpu if is_cpu(tensor) else 2**25


# Precision


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated: float64 for float64, float32 otherwise."""
    return torch.promote_types(dtype, torch.float32)


def product_dtype(input: Tensor) -> torch.dtype:
    """The dtype of matrix products: the input's own on a GPU, whose tensor cores sum in float32."""
    return accumulate_dtype(input.dtype) if is_cpu(input) else input.dtype


def to_autocast_dtype(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype in which autocast runs a convolution; unchanged without autocast."""
    device = tensors[0].device.type
    if not _has_autocast(device) or not torch.is_autocast_enabled(device):
        return tensors
    if tensors[0].dtype == torch.float64:
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which operations keep the dtypes that they are given, on a tensor's device."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


def in_full_precision(function: Callable, *arguments: Any) -> Any:
    """Call a function without autocast, with its tensor arguments in at least float32.

    For positions, offsets and whatever else says where to read: half precision would round them to
    coarse steps.
    """
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    with without_autocast(tensors[0]):
        return function(
            *(a.to(accumulate_dtype(a.dtype)) if isinstance(a, Tensor) else a for a in arguments)
        )


def _has_autocast(device: str) -> bool:
    return device != "meta"


# Memory format: outputs have the input's, as those of nn.Conv2d. Not only for speed: mmcv's
# operations, RoIAlign for one, read a map's memory as NCHW whatever its strides say.


def is_channels_last(input: Tensor) -> bool:
    """Whether a map is channels_last and not also contiguous, as a map of one channel is."""
    return not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)


def empty_like(input: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An empty map of another shape in the input's memory format."""
    return torch.empty(
        shape, dtype=dtype or input.dtype, device=input.device, memory_format=_format_of(input)
    )


def match_memory_format(output: Tensor, input: Tensor) -> Tensor:
    """The output in the input's memory format."""
    return output.contiguous(memory_format=_format_of(input))


def add_bias_and_format(output: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    """The output plus the bias, if any, in the input's memory format."""
    if bias is not None:
        output = output + bias.to(output.dtype)[:, None, None]
    return match_memory_format(output, input)


def _format_of(input: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(input) else torch.contiguous_format
