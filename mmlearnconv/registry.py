"""The registry that the convolutions are found in, with every type of the catalogue.

mmcv 2 merged its ``CONV_LAYERS`` registry into mmengine's ``MODELS``; the old name is kept here for
code that says what it means. A class's own name builds what the first type of that class builds.
"""

import logging

from mmengine.logging import print_log
from mmengine.registry import MODELS

from .catalog import CATALOG, builder
from .layers.depthwise import build_depthwise
from .log import logger

__all__ = ["CONV_LAYERS", "MODELS"]

CONV_LAYERS = MODELS


class _CurrentLogger(logging.Handler):
    """Hands the package's records to the logger of the run, as mmengine's own messages go."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), logger="current", level=record.levelno)


def _register() -> None:
    registered: set[str] = set()
    for operator in CATALOG:
        for name in {operator.name, operator.layer.__name__} - registered:
            CONV_LAYERS.register_module(name, module=builder(operator))
            registered.add(name)
    CONV_LAYERS.register_module("DepthwiseConv2d", module=build_depthwise)


_register()
logger.addHandler(_CurrentLogger())
logger.setLevel(logging.INFO)
logger.propagate = False
