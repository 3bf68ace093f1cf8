"""ConvNeXt whose depthwise convolution is chosen by ``conv_cfg``.

Liu et al.: A ConvNet for the 2020s. CVPR 2022. https://arxiv.org/abs/2201.03545
With DCLS: Khalfaoui-Hassani et al., ICLR 2023. https://arxiv.org/abs/2112.03740
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_conv_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList, Sequential
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.utils.checkpoint import checkpoint

from ..errors import UserValueError
from ..layers import DCLSConv2d
from ..registry import MODELS
from .base import Backbone

ARCHITECTURES = {
    "tiny": dict(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
    "small": dict(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
    "base": dict(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
}
# Elements of a DCLS kernel in the paper's models, for as many parameters as the plain 7x7.
DCLS_KERNEL_COUNTS = {"tiny": 34, "small": 40, "base": 40}


# Module names in the checkpoints of ConvNeXt's and DCLS's authors -> ours.
_AUTHORS_NAMES = {
    "dwconv": "depthwise_conv",
    "pwconv1": "pointwise_conv1",
    "pwconv2": "pointwise_conv2",
}


def author_key(key: str) -> str | None:
    """Translate a backbone's key in the authors' checkpoints to ours; our keys stay.

    The classifier's norm becomes the last stage's, as in mmpretrain.

    Returns:
        str: our key, or ``None`` if the key belongs to the classifier.
    """
    first, *rest = key.split(".")
    if first == "norm":
        return ".".join(("norm3", *rest))
    if first == "head":
        return None
    return ".".join((first, *(_AUTHORS_NAMES.get(part, part) for part in rest)))


def convert_state_dict(
    state_dict: dict[str, Any], version: str | None = None
) -> tuple[dict[str, Any], str]:
    """Convert a state dict of ConvNeXt's or DCLS's authors to OpenMMLab's layout.

    Args:
        state_dict: of a classifier (``stages.*``, ``head.*``), or of a whole detector or segmentor
            (``backbone.stages.*``, ...), whose other parts keep their names; the prefix ``module.``
            of distributed training is removed.
        version: of the package ``dcls``; after v0, square windows have the column first. Default:
            ``'v0'``, or ``'gauss'`` if there are widths.

    Returns:
        tuple: the state dict, with keys ``backbone.*`` and, of a classifier, ``head.fc.*``; and a
        description of what was found.

    Raises:
        ValueError: there is no ConvNeXt in the authors' layout.
    """
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    prefix = "backbone." if any(k.startswith("backbone.") for k in state_dict) else ""
    if not any(k.startswith(f"{prefix}stages.") and ".dwconv." in k for k in state_dict):
        raise UserValueError(
            "the checkpoint has no ConvNeXt in its authors' layout: no key like "
            "stages.0.0.dwconv.weight, with or without the prefix backbone."
        )
    if version is None:
        version = "gauss" if any(k.endswith(".dwconv.SIG") for k in state_dict) else "v0"
    converted, positions = {}, 0
    for key, value in state_dict.items():
        if not key.startswith(prefix):
            converted[key] = value
            continue
        name = key.removeprefix(prefix)
        if not prefix and name.startswith("head."):
            converted[f"head.fc.{name.removeprefix('head.')}"] = value
            continue
        for theirs, ours in ((".dwconv.P", ".dwconv.positions"), (".dwconv.SIG", ".dwconv.width")):
            if name.endswith(theirs):
                name = name.removesuffix(theirs) + ours
                value = value if version == "v0" else value.flip(0)
                positions += theirs == ".dwconv.P"
        converted[f"backbone.{author_key(name)}"] = value
    kind = f"DCLS, version {version}, in {positions} layers" if positions else "plain"
    return converted, f"ConvNeXt, {kind}: {len(converted)} tensors"


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), computed and returned in channels_last."""

    def forward(self, input: Tensor) -> Tensor:
        output = layer_norm(
            input.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return output.permute(0, 3, 1, 2)


class ConvNeXtBlock(BaseModule):
    """Depthwise 7x7, LayerNorm, 1x1 to four times the channels, GELU, 1x1 back, scaled, added.

    Args:
        channels: of input and output.
        conv_cfg: the depthwise convolution.
        drop_path_rate: probability of dropping the block's branch.
        layer_scale_init_value: initial value of the learned factor per channel; 0 for none.
        with_cp: recompute activations in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        conv_cfg: dict[str, Any] | None,
        drop_path_rate: float,
        layer_scale_init_value: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.depthwise_conv = build_conv_layer(
            conv_cfg, channels, channels, kernel_size=7, padding=3, groups=channels
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)
        self.gamma = (
            nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        branch = self.depthwise_conv(x).permute(0, 2, 3, 1)
        branch = self.pointwise_conv2(self.act(self.pointwise_conv1(self.norm(branch))))
        if self.gamma is not None:
            branch = self.gamma * branch
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


@MODELS.register_module()
class ConvNeXt(Backbone):
    """ConvNeXt backbone, with mmpretrain's parameter names, for mmdet, mmseg and mmpretrain.

    In mmpretrain's configs it is ``'mmengine.ConvNeXt'``: mmpretrain has one without ``conv_cfg``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict with ``depths`` and ``channels``.
        conv_cfg: the depthwise 7x7 convolution of the blocks. ``dict(type='DCLS')`` gets the
            paper's kernel count for ``arch`` (34, 40, 40). Default: plain.
        share_positions: whether a stage's DCLS layers share their positions. Default: ``True``.
        in_channels: of the image. Default: 3.
        drop_path_rate: of the last block; rises linearly from 0. Default: 0.
        layer_scale_init_value: initial value of each block's learned factors; 0 for none. Default:
            1e-6.
        out_indices: stages to return, each after its own LayerNorm. Default: the first four.
        frozen_stages: stages that do not train: -1 none, 0 the stem, i the stem and stages up to i
            (from 1). Default: -1.
        gap_before_final_norm: average each output map before its LayerNorm and return vectors, as
            classifiers do. Default: ``False``.
        with_cp: recompute the blocks' activations in the backward pass to save memory.
            Default: ``False``.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` takes
            plain checkpoints too. Default: the paper's truncated normal of 0.02.

    Raises:
        ValueError: ``arch``, ``out_indices`` or ``frozen_stages`` outside what is allowed.
    """

    def __init__(
        self,
        arch: str | dict[str, Sequence[int]] = "tiny",
        conv_cfg: dict[str, Any] | None = None,
        share_positions: bool = True,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        gap_before_final_norm: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if isinstance(arch, str):
            if arch not in ARCHITECTURES:
                raise UserValueError(
                    f"arch: {arch!r}; allowed are {sorted(ARCHITECTURES)} or a dict"
                )
            if (conv_cfg or {}).get("type") in ("DCLS", "DCLSConv2d", DCLSConv2d):
                conv_cfg = dict(kernel_count=DCLS_KERNEL_COUNTS[arch]) | conv_cfg
            arch = ARCHITECTURES[arch]
        depths, channels = arch["depths"], arch["channels"]
        if len(depths) != len(channels):
            raise UserValueError(f"arch: depths {depths} and channels {channels} differ in length")
        super().__init__(
            len(depths),
            out_indices,
            frozen_stages,
            False,
            init_cfg or dict(type="TruncNormal", layer=["Conv2d", "Linear"], std=0.02, bias=0.0),
        )
        self.gap_before_final_norm = gap_before_final_norm
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.downsample_layers = ModuleList()
        self.stages = ModuleList()
        # No stage behind the last output: its parameters would get no gradient.
        for i in range(max(self.out_indices) + 1):
            depth, width = depths[i], channels[i]
            if i == 0:
                down = [nn.Conv2d(in_channels, width, 4, 4), LayerNorm2d(width, eps=1e-6)]
            else:
                down = [
                    LayerNorm2d(channels[i - 1], eps=1e-6),
                    nn.Conv2d(channels[i - 1], width, 2, 2),
                ]
            self.downsample_layers.append(Sequential(*down))
            blocks = [
                ConvNeXtBlock(width, conv_cfg, next(rates), layer_scale_init_value, with_cp)
                for _ in range(depth)
            ]
            self.stages.append(Sequential(*blocks))
            if share_positions and isinstance(blocks[0].depthwise_conv, DCLSConv2d):
                for block in blocks[1:]:
                    block.depthwise_conv.share_positions(blocks[0].depthwise_conv)
            if i in self.out_indices:
                self.add_module(f"norm{i}", LayerNorm2d(width, eps=1e-6))
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) to one (N, C_i, H / 2^(i+2), W / 2^(i+2)) per output stage.

        With ``gap_before_final_norm`` to one (N, C_i).
        """
        outputs = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            if i in self.out_indices:
                norm = getattr(self, f"norm{i}")
                if self.gap_before_final_norm:
                    outputs.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    # mmcv's operations, RoIAlign for one, read a map's memory as NCHW.
                    outputs.append(norm(x).contiguous())
        return tuple(outputs)

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The patch convolution; then each stage with what halves the map before it."""
        first, *rest = zip(self.downsample_layers, self.stages, strict=True)
        return [[first[0]], [first[1]], *map(list, rest)]

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # In place: the children are given this dictionary.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = author_key(key.removeprefix(prefix))
            if name != key.removeprefix(prefix):
                value = state_dict.pop(key)
                if name is not None:
                    state_dict[prefix + name] = value
        super()._load_from_state_dict(state_dict, prefix, *args)
