"""Convolutions that learn where to look, for detection and segmentation.

The operations, layers, swaps, folding and analysis need PyTorch alone. Where mmengine is installed,
importing the package also registers everything with OpenMMLab:
``custom_imports = dict(imports=['mmlearnconv'])``.
"""

from importlib.util import find_spec

from . import analysis, catalog, layers, ops, surgery
from .version import __version__

if find_spec("mmengine") is not None:
    from . import datasets, engine, models, registry  # noqa: F401

__all__ = ["__version__", "analysis", "catalog", "layers", "ops", "surgery"]
