"""Feature pyramid with learnable convolutions on chosen levels."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule

from ..errors import UserImportError, UserValueError
from ..registry import MODELS


@MODELS.register_module()
def LearnableFPN(  # noqa: N802
    output_conv_cfg: dict[str, Any] | None = None,
    output_levels: Sequence[int] | None = None,
    lateral_conv_cfg: dict[str, Any] | None = None,
    lateral_levels: Sequence[int] | None = None,
    **fpn: Any,
) -> BaseModule:
    """mmdet's ``FPN`` with some of its convolutions of another type.

    Args:
        output_conv_cfg: the 3x3 convolutions of the chosen output levels. Default: plain.
        output_levels: indices of outputs, 0 the finest, extra levels included. Default: all.
        lateral_conv_cfg: the 1x1 convolutions of the chosen lateral levels. Default: plain.
        lateral_levels: indices of the inputs in use, 0 the finest. Default: all.
        **fpn: arguments of mmdet's ``FPN``.

    Returns:
        BaseModule: mmdet's ``FPN``; its module names and ``init_cfg`` are those of a plain one.

    Raises:
        ImportError: mmdet is not installed.
        ValueError: a level that the pyramid has no convolution for.
    """
    try:
        from mmdet.models.necks import FPN
    except ImportError as error:
        raise UserImportError("LearnableFPN needs mmdet: pip install 'mmlearnconv[det]'") from error
    neck = FPN(**fpn)
    for name, modules, cfg, levels in (
        ("output_levels", neck.fpn_convs, output_conv_cfg, output_levels),
        ("lateral_levels", neck.lateral_convs, lateral_conv_cfg, lateral_levels),
    ):
        if cfg is None:
            continue
        allowed = range(len(modules))
        levels = allowed if levels is None else levels
        if any(level not in allowed for level in levels):
            raise UserValueError(f"{name}: {list(levels)}; allowed are {list(allowed)}")
        for level in levels:
            plain = modules[level].conv
            modules[level].conv = build_conv_layer(
                cfg,
                plain.in_channels,
                plain.out_channels,
                plain.kernel_size,
                stride=plain.stride,
                padding=plain.padding,
                dilation=plain.dilation,
                groups=plain.groups,
                bias=plain.bias is not None,
            )
    return neck
