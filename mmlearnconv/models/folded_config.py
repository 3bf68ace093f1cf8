"""The config of a model whose learnable convolutions were folded, or are plain."""

import copy
from collections.abc import Iterator
from typing import Any

from mmengine import registry
from mmengine.config import Config
from torch import nn

from ..registry import MODELS

_PACKAGE = __name__.split(".")[0]


def folded_config(cfg: Config, folded: nn.Module, taps: str | None = None) -> tuple[Config, bool]:
    """The config that a folded model is built from.

    Args:
        cfg: the config that the learnable model was built from.
        folded: the model that :func:`fold_convs` returned.
        taps: as it was passed to :func:`fold_convs`. Default: ``None``.

    Returns:
        tuple: the config, and whether it needs this package. It does not if every folded kernel has
        the size of the one that it replaced and the config names nothing else of this package. If
        sizes differ, ``SwapConv`` with ``fold`` set gives every convolution its folded size.
    """
    plain = copy.deepcopy(cfg)
    plain.model = without_learnable(plain.model)
    wrapper = plain.get("optim_wrapper") or {}
    if _is_ours(wrapper.get("constructor")):
        paramwise = wrapper.get("paramwise_cfg") or {}
        wrapper["constructor"] = paramwise.pop("base", "DefaultOptimWrapperConstructor")
    shapes = {name: value.shape for name, value in folded.state_dict().items()}
    built = MODELS.build(copy.deepcopy(plain.model)).state_dict()
    if shapes != {name: value.shape for name, value in built.items()}:
        plain = copy.deepcopy(cfg)
        if plain.model.type != "SwapConv":
            plain.model.target = plain.model.type
        plain.model.type = "SwapConv"
        plain.model.fold = taps or True
        return plain, True
    if any(_is_ours(name) for name in _types(plain.to_dict())):
        return plain, True
    imports = plain.get("custom_imports")
    if imports:
        kept = [name for name in imports["imports"] if name.split(".")[0] != _PACKAGE]
        imports["imports"] = kept
        if not kept:
            plain.pop("custom_imports")
    return plain, False


def _is_ours(name: Any) -> bool:
    """Whether a type in a config, a class or a registered name, is this package's."""
    if not isinstance(name, str):
        return getattr(name, "__module__", "").split(".")[0] == _PACKAGE
    name = name.removeprefix("mmengine.")
    registries = (r for r in vars(registry).values() if isinstance(r, registry.Registry))
    known = (r.module_dict.get(name) for r in registries)
    return any(getattr(found, "__module__", "").split(".")[0] == _PACKAGE for found in known)


def _types(value: Any) -> Iterator[Any]:
    """Every type and constructor that a config names."""
    if isinstance(value, dict):
        yield from (value[key] for key in ("type", "constructor") if key in value)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def without_learnable(value: Any) -> Any:
    """A model's config with its learnable convolutions plain.

    Args:
        value: the config, or a part of it; its dicts are changed in place.

    Returns:
        Any: it; a new list where it was one.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(without_learnable(item) for item in value)
    if not isinstance(value, dict):
        return value
    for key in list(value):
        cfg = value[key]
        if key.endswith("conv_cfg") and isinstance(cfg, dict) and _is_ours(cfg.get("type")):
            value[key] = None
        else:
            value[key] = without_learnable(cfg)
    kind = value.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", None)
    if _is_ours(kind) and name == "SwapConv":
        value["type"] = value.pop("target")
        value.pop("swaps", None)
        value.pop("fold", None)
    elif _is_ours(kind) and name == "LearnableFPN":
        value["type"] = "FPN"
        for part in ("output", "lateral"):
            value.pop(f"{part}_conv_cfg", None)
            value.pop(f"{part}_levels", None)
    elif _is_ours(kind):
        # ShuffleNetV2's, of guides that only DRConv has.
        value.pop("share_guide", None)
    return value
