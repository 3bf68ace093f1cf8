"""A convolution from a ``conv_cfg``."""

import sys
from typing import Any

from torch import nn

from ..catalog import CATALOG, find_operator
from ..errors import UserValueError
from ..layers.depthwise import build_depthwise

_PLAIN = {
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
    "DepthwiseConv2d": build_depthwise,
}


def build_conv(cfg: dict[str, Any], *args: Any, **arguments: Any) -> nn.Module:
    """The convolution that a ``conv_cfg`` names.

    Args:
        cfg: ``type``, a name of the catalogue, ``'Conv2d'`` and its like, or a class; and options.
            Where mmcv is loaded, whatever is in its registry is found too.
        *args, **arguments: those of ``nn.Conv2d``.

    Raises:
        ValueError: the type is unknown.
    """
    mmcv_cnn = sys.modules.get("mmcv.cnn")
    if mmcv_cnn is not None:
        return mmcv_cnn.build_conv_layer(cfg, *args, **arguments)
    options = dict(cfg)
    kind = options.pop("type")
    if isinstance(kind, type):
        return kind(*args, **arguments, **options)
    operator = find_operator(kind)
    if operator is None and kind not in _PLAIN:
        known = ", ".join([*(o.name for o in CATALOG), *_PLAIN])
        raise UserValueError(f"type: {kind!r} is not a convolution; known are {known}")
    build = _PLAIN[kind] if operator is None else operator.build
    return build(*args, **arguments, **options)
