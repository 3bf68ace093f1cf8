"""A shallow network with a branch for large and one for small objects (DKE, section 7)."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ..errors import UserImportError
from ..registry import MODELS
from .base import KAIMING, Backbone

# Channels and stride of the six shared layers; the paper gives neither.
_TRUNK = ((32, 2), (32, 1), (64, 1), (64, 2), (128, 1), (128, 2))


@MODELS.register_module()
class TwoBranchNet(Backbone):
    """Nine layers of 3x3 that split at the seventh into two branches of equal form.

    The paper gives a receptive field of 78 pixels; strides here give 79, the nearest odd number.
    Training decides in which branch the kernels grow.

    Args:
        in_channels: of the image. Default: 3.
        branch_conv_cfg: the convolutions of the branches. Default: plain.
        branch_kernel_size: of those. Default: 3.
        branch_dilation: of those. Default: 1.
        out_indices: branches to return, 128 channels at stride 8 each; an index may be repeated, to
            return a map once per anchor. Default: both.
        frozen_stages: -1 none, 0 the six shared layers, i those and the first i of the returned
            branches. Default: -1.
        norm_eval: whether no BatchNorm updates its statistics. Default: ``False``.
        norm_cfg: norms. Default: ``dict(type='BN')``.
        init_cfg: mmengine's. Default: Kaiming.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    def __init__(
        self,
        in_channels: int = 3,
        branch_conv_cfg: dict[str, Any] | None = None,
        branch_kernel_size: int = 3,
        branch_dilation: int = 1,
        out_indices: Sequence[int] = (0, 1),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = KAIMING,
    ) -> None:
        super().__init__(2, out_indices, frozen_stages, norm_eval, init_cfg)
        norm_cfg = norm_cfg or dict(type="BN")
        layers, channels = [], in_channels
        for width, stride in _TRUNK:
            layers.append(
                ConvModule(channels, width, 3, stride=stride, padding=1, norm_cfg=norm_cfg)
            )
            channels = width
        self.trunk = Sequential(*layers)
        padding = branch_dilation * (branch_kernel_size // 2)

        def branch() -> Iterator[nn.Module]:
            for _ in range(3):
                yield ConvModule(
                    channels,
                    channels,
                    branch_kernel_size,
                    padding=padding,
                    dilation=branch_dilation,
                    conv_cfg=branch_conv_cfg,
                    norm_cfg=norm_cfg,
                )

        for i in set(self.out_indices):
            self.add_module(f"branch{i + 1}", Sequential(*branch()))
        self.freeze()

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The shared layers; the branches."""
        branches = [[getattr(self, f"branch{i + 1}")] for i in sorted(set(self.out_indices))]
        return [[self.trunk], *branches]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(N, in_channels, H, W)`` to ``(N, 128, H / 8, W / 8)`` for each of ``out_indices``."""
        x = self.trunk(x)
        maps = {i: getattr(self, f"branch{i + 1}")(x) for i in set(self.out_indices)}
        return tuple(maps[i] for i in self.out_indices)


@MODELS.register_module()
def TwoBranchHead(**ssd: Any) -> BaseModule:  # noqa: N802
    """mmdet's ``SSDHead``, which has separate convolutions for every map.

    mmdet 3.3 to 3.5 read ``loss_cls`` from every head. ``SSDHead`` has none, so that prediction
    fails; here it is ``None``.

    Args:
        **ssd: ``SSDHead``'s own arguments.

    Returns:
        BaseModule: mmdet's ``SSDHead``.

    Raises:
        ImportError: mmdet is not installed.
    """
    try:
        from mmdet.models.dense_heads import SSDHead
    except ImportError as error:
        raise UserImportError(
            "TwoBranchHead needs mmdet: pip install 'mmlearnconv[det]'"
        ) from error
    head = SSDHead(**ssd)
    head.loss_cls = None
    return head
