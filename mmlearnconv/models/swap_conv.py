"""A model of OpenMMLab with some of its convolutions replaced, as a type for configs."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..registry import MODELS
from ..surgery.fold import fold_convs
from ..surgery.swap import replace_convs


@MODELS.register_module()
def SwapConv(  # noqa: N802
    target: str | type,
    swaps: Sequence[dict[str, Any]] = (),
    fold: bool | str = False,
    **model: Any,
) -> nn.Module:
    """Build a model and replace some of its convolutions; a ``type`` for configs.

    .. code-block:: python

        _base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
        custom_imports = dict(imports=['mmlearnconv'])
        model = dict(
            type='SwapConv',
            target='MaskRCNN',
            swaps=[dict(pattern='backbone.layer[34].*.conv2', conv=dict(type='DKE'))])

    Args:
        target: the model's type, which is the ``type`` in the inherited config.
        swaps: one dict of :class:`SwapRule` arguments per rule; plain checkpoints still load. A
            rule may also put in mmcv's ``dict(type='DCN')`` for comparison, or a plain convolution
            of another window, ``dict(type='Conv2d', kernel_size=5)`` or ``dilation=2``, padded so
            that maps keep their sizes. Default: none.
        fold: whether to fold the model afterwards, into plain convolutions of the folded kernels'
            sizes, for checkpoints of ``tools/fold.py``; or a ``taps`` argument for
            :func:`fold_convs`. Default: ``False``.
        **model: the model's own arguments.

    Returns:
        nn.Module: the model, of type ``target``; its modules have the names of the plain model's.

    Raises:
        TypeError, ValueError: as :func:`swap_convs`.
    """
    built = MODELS.build(dict(type=target, **model))
    replace_convs(built, swaps, same_function=False)
    return fold_convs(built, fold if isinstance(fold, str) else None) if fold else built
