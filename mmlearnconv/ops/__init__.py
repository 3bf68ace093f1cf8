"""Stateless operations on tensors; ``reference`` holds the definition of each."""

from . import reference
from .coc import orthogonalize
from .dcls import dcls_kernel
from .depthwise import depthwise_conv2d, depthwise_taps
from .dk import dk_conv2d
from .dke import dke_conv2d, dke_response, dke_taps
from .drconv import drconv2d, drconv2d_factorised
from .extension import is_compiled
from .penalties import orthogonality, repulsion
from .per_image import condconv2d, conv2d_per_image
from .reference import associate_kernels, standardize

__all__ = [
    "associate_kernels",
    "condconv2d",
    "conv2d_per_image",
    "dcls_kernel",
    "depthwise_conv2d",
    "depthwise_taps",
    "dk_conv2d",
    "dke_conv2d",
    "dke_response",
    "dke_taps",
    "drconv2d",
    "drconv2d_factorised",
    "is_compiled",
    "orthogonality",
    "orthogonalize",
    "reference",
    "repulsion",
    "standardize",
]
