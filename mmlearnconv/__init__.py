"""Convolutions that learn where to look, for detection and segmentation with OpenMMLab.

Importing the package registers everything: ``custom_imports = dict(imports=['mmlearnconv'])``.
"""

from importlib.util import find_spec

from .version import __version__

# ``mmlearnconv.ops`` needs torch alone.
if find_spec("mmengine") is not None:
    from . import (  # noqa: F401
        analysis,
        catalog,
        datasets,
        engine,
        layers,
        models,
        surgery,
        visualization,
    )

__all__ = ["__version__"]
