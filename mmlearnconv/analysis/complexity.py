"""Parameters and multiply-adds of networks, with the operators' own work listed separately."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserValueError
from ..layers import LearnableConv
from ..ops.geometry import conv_output_size
from .inputs import input_channels

# Height and width that published figures of detectors and segmentors are for.
PUBLISHED_SIZES = {"mmdet": (800, 1280), "mmseg": (512, 2048), "mmpretrain": (224, 224)}
# Regions that heads are counted with.
PROPOSALS = 1000
MASKS = 100


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Args:
        parameters: number of parameters; shared ones count once.
        network: multiply-adds of everything except learnable convolutions: PyTorch's convolutions
            and matrix products.
        layers: multiply-adds of each learnable convolution, by its name and by part.
        elementwise: operations of norms (two per element if affine, else one), ReLUs and pooling,
            which the other counts leave out. Published figures of detectors include them.
    """

    parameters: int
    network: int
    layers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    elementwise: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Multiply-adds by part: ``network``, ``convolution``, ``guide``, ``sampling``, ..."""
        parts = dict(network=self.network)
        for layer in self.layers.values():
            for name, count in layer.items():
                parts[name] = parts.get(name, 0) + count
        return {name: count for name, count in parts.items() if count}

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(self.parts.values())


def count_complexity(model: nn.Module, size: Sequence[int]) -> Complexity:
    """Count parameters and multiply-adds of a network for one image.

    PyTorch's convolutions and matrix products count by their shapes; norms, activations, pooling
    and interpolation, which the papers leave out, do not. A learnable convolution is counted as in
    its paper (:meth:`~mmlearnconv.layers.LearnableConv.macs`), however it is computed. In Faster,
    Mask and Cascade R-CNN, 1000 proposals go through the box head of each stage, and 100 through
    the mask head, as in published figures. The model runs on the meta device, without data; only if
    one of its operations does not support that, it runs once on the CPU. (mmengine's analysis
    traces the model, which fails for some of mmdet's, HRNet for example.)

    Args:
        model: any network that takes images, or a detector or segmentor of OpenMMLab.
        size: height and width of the image, in pixels.

    Returns:
        Complexity: the counts.

    Raises:
        ValueError: ``size`` is not two positive integers, or the model does not run with an image
            and nothing else.
    """
    if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise UserValueError(f"size: {size!r}; must be height and width in pixels")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tensors = chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor.to("meta") for tensor in tensors})
    try:
        return _count(twin, size, parameters)
    except (NotImplementedError, RuntimeError):
        pass
    try:
        return _count(copy.deepcopy(model).cpu(), size, parameters)
    except Exception as error:
        raise UserValueError(
            f"{type(model).__name__} cannot be counted at {size}: {error}"
        ) from error


def _count(model: nn.Module, size: Sequence[int], parameters: int) -> Complexity:
    model.eval()  # Which returns nothing in mmdet's detectors with a teacher.
    layers: dict[str, dict[str, int]] = {}
    counter = FlopCounterMode(display=False)
    channels = input_channels(model, size)
    with torch.no_grad(), _stand_ins(model, layers), _elementwise(model) as elementwise, counter:
        _forward(model, next(model.parameters()).new_zeros(1, channels, *size))
    # To PyTorch's counter a multiply-add is two operations.
    return Complexity(parameters, counter.get_total_flops() // 2, layers, sum(elementwise))


@contextmanager
def _elementwise(model: nn.Module) -> Iterator[list[int]]:
    """Operations of the modules that mmcv's counter adds to those that multiply."""
    counts: list[int] = []

    def count(module: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
        affine = getattr(module, "affine", getattr(module, "elementwise_affine", False))
        counts.append(args[0].numel() * (2 if affine else 1))

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, _ELEMENTWISE)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _stand_ins(model: nn.Module, layers: dict[str, dict[str, int]]) -> Iterator[None]:
    """Make layers return maps of the right shape, and count what they would have computed."""
    replaced = []
    deformable = _deformable_kinds()
    for name, module in model.named_modules():
        if isinstance(module, LearnableConv):
            size_of, count = module.output_size, module.macs
        elif isinstance(module, deformable):
            size_of = partial(_size_of_deformable, module)
            count = partial(_count_deformable, module)
        else:
            continue
        module.forward = _stand_in(module, size_of, count, layers.setdefault(name, {}))
        replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _stand_in(
    module: nn.Module,
    size_of: Callable[[Sequence[int]], tuple[int, ...]],
    count: Callable[[Sequence[int]], dict[str, int]],
    parts: dict[str, int],
) -> Callable[..., Tensor]:
    def forward(input: Tensor, *_: Any) -> Tensor:
        size = size_of(input.shape[2:])
        for name, number in count(size).items():
            # A layer that is applied to several maps, as in a head, counts once per map.
            parts[name] = parts.get(name, 0) + number * len(input)
        return input.new_zeros(len(input), module.out_channels, *size)

    return forward


def _deformable_kinds() -> tuple[type[nn.Module], ...]:
    try:
        from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
    except ImportError:  # mmcv without its operations has none.
        return ()
    return DeformConv2d, ModulatedDeformConv2d


def _size_of_deformable(conv: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    return conv_output_size(size, conv.kernel_size, conv.stride, conv.padding, conv.dilation)


def _count_deformable(conv: nn.Module, size: Sequence[int]) -> dict[str, int]:
    """Count mmcv's deformable convolutions as DK's: two multiply-adds per sampled element."""
    locations, taps = prod(size), prod(conv.kernel_size)
    offsets = getattr(conv, "conv_offset", None)
    return dict(
        convolution=locations * conv.weight.numel(),
        generator=0 if offsets is None else locations * offsets.weight.numel(),
        sampling=2 * locations * taps * conv.in_channels,
    )


_ELEMENTWISE = (
    _NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


def _forward(model: nn.Module, images: Tensor) -> None:
    if type(getattr(model, "roi_head", None)).__name__ in ("StandardRoIHead", "CascadeRoIHead"):
        maps = model.extract_feat(images)
        model.rpn_head(maps)
        _heads(model.roi_head, maps[0])
    elif hasattr(model, "data_preprocessor"):
        model(images, _samples(images), mode="tensor")
    else:
        model(images)


def _heads(roi_head: nn.Module, map: Tensor) -> None:
    """Box and mask heads, on as many regions as published figures have."""
    for kind, count in (("bbox", PROPOSALS), ("mask", MASKS)):
        heads = getattr(roi_head, f"{kind}_head", None)
        if heads is None:
            continue
        extractors = getattr(roi_head, f"{kind}_roi_extractor", None) or roi_head.bbox_roi_extractor
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors, strict=True):
            size = extractor.roi_layers[0].output_size
            regions = map.new_zeros(count, extractor.out_channels, *size)
            if roi_head.with_shared_head:
                regions = roi_head.shared_head(regions)
            head(regions)


def _samples(images: Tensor) -> list[Any]:
    from mmengine.structures import BaseDataElement  # It is a model of mmengine's that wants them.

    size = tuple(images.shape[2:])
    return [
        BaseDataElement(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
        )
    ]
