"""Stateless operations on tensors; ``reference`` holds the definition of each."""

from . import reference
from .dcls import dcls_kernel
from .depthwise import depthwise_conv2d

__all__ = ["dcls_kernel", "depthwise_conv2d", "reference"]
