"""Names of parameters in checkpoints of other libraries, translated to OpenMMLab's."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Layout", "Match", "translate"]


class Layout(NamedTuple):
    """Names that a library gives to the parameters of an architecture.

    Args:
        name: of both.
        rules: regular expressions and what replaces them, applied in turn.
    """

    name: str
    rules: tuple[tuple[str, str], ...]

    def rename(self, key: str) -> str:
        """OpenMMLab's name."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key


class Match(NamedTuple):
    """What :func:`translate` found.

    Args:
        state_dict: with the module's names; keys that it does not have are the file's own.
        layout: name of the file's layout.
        prefix: of the keys that were taken.
        count: of tensors that the module has, too.
    """

    state_dict: dict[str, Any]
    layout: str
    prefix: str
    count: int


_CONVNEXT_BLOCK = (
    (r"\.(?:conv_dw|dwconv|block\.0)\.", ".depthwise_conv."),
    (r"\.(?:layernorm|block\.2)\.", ".norm."),
    (r"\.(?:mlp\.fc1|pwconv1|block\.3)\.", ".pointwise_conv1."),
    (r"\.(?:mlp\.fc2|pwconv2|block\.5)\.", ".pointwise_conv2."),
    (r"\.(?:layer_scale|layer_scale_parameter)$", ".gamma"),
)
# Blocks of MobileNetV2's stages, and the parts of a block without and with an expansion.
_MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
_PARTS = ("depthwise_conv", "linear_conv"), ("expand_conv", "depthwise_conv", "linear_conv")


def _mobilenet_v2_torchvision() -> Iterable[tuple[str, str]]:
    last = sum(_MOBILENET_V2) + 1
    for number, ours in ((0, "conv1"), (last, "conv2")):
        yield rf"^features\.{number}\.0\.", f"{ours}.conv."
        yield rf"^features\.{number}\.1\.", f"{ours}.bn."
    number = 0
    for stage, blocks in enumerate(_MOBILENET_V2, 1):
        *wrapped, linear = _PARTS[stage > 1]
        for block in range(blocks):
            number += 1
            theirs, ours = rf"^features\.{number}\.conv", f"layer{stage}.{block}"
            for i, part in enumerate(wrapped):
                yield rf"{theirs}\.{i}\.0\.", f"{ours}.{part}.conv."
                yield rf"{theirs}\.{i}\.1\.", f"{ours}.{part}.bn."
            yield rf"{theirs}\.{len(wrapped)}\.", f"{ours}.{linear}.conv."
            yield rf"{theirs}\.{len(wrapped) + 1}\.", f"{ours}.{linear}.bn."


def _mobilenet_v2_timm() -> Iterable[tuple[str, str]]:
    for theirs, ours in (("conv_stem", "conv1.conv"), ("conv_head", "conv2.conv")):
        yield rf"^{theirs}\.", f"{ours}."
    yield r"^bn1\.", "conv1.bn."
    yield r"^bn2\.", "conv2.bn."
    for stage in range(len(_MOBILENET_V2)):
        names = ("conv_pw", "conv_dw", "conv_pwl") if stage else ("conv_dw", "conv_pw")
        for number, (name, part) in enumerate(zip(names, _PARTS[stage > 0], strict=True), 1):
            theirs, ours = rf"^blocks\.{stage}\.(\d+)", rf"layer{stage + 1}.\1.{part}"
            yield rf"{theirs}\.{name}\.", f"{ours}.conv."
            yield rf"{theirs}\.bn{number}\.", f"{ours}.bn."


def _mobilenet_v2_mmpretrain() -> Iterable[tuple[str, str]]:
    for stage in range(1, len(_MOBILENET_V2) + 1):
        for i, part in enumerate(_PARTS[stage > 1]):
            yield rf"^layer{stage}\.(\d+)\.conv\.{i}\.", rf"layer{stage}.\1.{part}."


def _resnet_hugging_face() -> Iterable[tuple[str, str]]:
    kinds = (("convolution", "conv1", "conv"), ("normalization", "bn1", "bn"))
    for kind, (theirs, stem, _) in enumerate(kinds):
        yield rf"^(?:resnet\.)?embedder\.embedder\.{theirs}\.", f"{stem}."
        for stage in range(4):
            block = rf"^(?:resnet\.)?encoder\.stages\.{stage}\.layers\.(\d+)"
            ours = rf"layer{stage + 1}.\1"
            yield rf"{block}\.shortcut\.{theirs}\.", f"{ours}.downsample.{kind}."
            for i in range(3):
                yield rf"{block}\.layer\.{i}\.{theirs}\.", f"{ours}.{kinds[kind][2]}{i + 1}."


_LAYOUTS = (
    Layout("OpenMMLab", ()),
    Layout("authors of ConvNeXt or DCLS", (*_CONVNEXT_BLOCK, (r"^norm\.", "norm3."))),
    Layout(
        "timm's ConvNeXt",
        (
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"^head\.norm\.", "norm3."),
            *_CONVNEXT_BLOCK,
        ),
    ),
    Layout(
        "torchvision's ConvNeXt",
        (
            (r"^features\.0\.", "downsample_layers.0."),
            *((rf"^features\.{2 * i}\.", f"downsample_layers.{i}.") for i in (1, 2, 3)),
            *((rf"^features\.{2 * i + 1}\.", f"stages.{i}.") for i in range(4)),
            (r"^classifier\.0\.", "norm3."),
            *_CONVNEXT_BLOCK,
        ),
    ),
    Layout(
        "Hugging Face's ConvNeXt",
        (
            (r"^convnext\.", ""),
            (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
            (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
            (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"downsample_layers.\1."),
            (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1."),
            (r"^layernorm\.", "norm3."),
            *_CONVNEXT_BLOCK,
        ),
    ),
    Layout("Hugging Face's ResNet", tuple(_resnet_hugging_face())),
    Layout("torchvision's MobileNetV2", tuple(_mobilenet_v2_torchvision())),
    Layout("timm's MobileNetV2", tuple(_mobilenet_v2_timm())),
    Layout("mmpretrain's MobileNetV2", tuple(_mobilenet_v2_mmpretrain())),
)


def translate(
    state_dict: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str | None = None
) -> Match:
    """Find the layout, and the prefix of keys, by which most tensors are a module's, and rename.

    Layouts: OpenMMLab's; ConvNeXt of its authors, of DCLS's, timm, torchvision and Hugging Face;
    ResNet of torchvision and timm, which have OpenMMLab's names, and of Hugging Face; MobileNetV2
    of torchvision, timm and mmpretrain. A factor per channel of shape (C, 1, 1) becomes (C,), and a
    matrix the 1x1 convolution that it equals, or the reverse, where the module has it so.

    Args:
        state_dict: of the file.
        wanted: the module's state dict.
        prefix: of the keys to take, like ``'backbone.'``. Default: the one that fits best, if any.
    """
    prefixes = _prefixes(state_dict) if prefix is None else [prefix.rstrip(".") + "."]
    best = Match({}, _LAYOUTS[0].name, "", -1)
    for start in prefixes:
        taken = {k.removeprefix(start): v for k, v in state_dict.items() if k.startswith(start)}
        for layout in _LAYOUTS:
            renamed = {key: layout.rename(key) for key in taken}
            count = sum(name in wanted for name in renamed.values())
            if count > best.count:
                found = {name: taken[key] for key, name in renamed.items()}
                best = Match(found, layout.name, start, count)
    for name, value in best.state_dict.items():
        if name in wanted:
            best.state_dict[name] = _with_shape_of(value, wanted[name])
    return best


def _prefixes(state_dict: Mapping[str, Any]) -> list[str]:
    """No prefix, and each of one or two parts that a key begins with, as ``'module.backbone.'``."""
    parts = (key.split(".") for key in state_dict)
    starts = {".".join(p[:n]) + "." for p in parts for n in (1, 2) if len(p) > n}
    return ["", *sorted(starts)]


def _with_shape_of(value: Any, wanted: Any) -> Any:
    same = getattr(value, "shape", None) == wanted.shape
    squeezed = [n for n in getattr(value, "shape", ()) if n != 1]
    if same or squeezed != [n for n in wanted.shape if n != 1]:
        return value
    return value.reshape(wanted.shape)
