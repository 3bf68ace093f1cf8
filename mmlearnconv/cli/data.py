"""Where a config's data sets lie."""

import inspect
import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, Registry

from ..errors import UserValueError
from .nested import nested_dicts

_SPLITS = ("train", "val", "test")


def set_data_root(cfg: Config, root: str) -> None:
    """Point every data loader and evaluator of a config at data under ``root``.

    Every path that starts with the data sets' ``data_root`` (their common parent where they differ)
    starts with ``root`` instead.

    Raises:
        ValueError: no data set has a ``data_root``, or they have no common parent.
    """
    old_roots = {
        dataset["data_root"] for _, dataset in find_datasets(cfg) if dataset.get("data_root")
    }
    if not old_roots:
        raise UserValueError(
            f"--data-root {root}: no data set of the config has a data_root to replace"
        )
    try:
        old = os.path.commonpath(old_roots)
    except ValueError:
        old = ""
    if not old:
        raise UserValueError(
            f"--data-root {root}: the data sets' roots {sorted(old_roots)} have no common parent; "
            "set each one by --cfg-options"
        )

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = replaced(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(replaced(v) for v in value)
        elif isinstance(value, str):
            path = os.path.normpath(value)
            if path == old or path.startswith(old + os.sep):
                # A trailing slash stays: some configs concatenate.
                end = os.sep if value.endswith(os.sep) else ""
                return os.path.normpath(os.path.join(root, os.path.relpath(path, old))) + end
        return value

    keys = [f"{split}_{part}" for split in _SPLITS for part in ("dataloader", "evaluator")]
    for key in (*keys, "data_root"):
        if key in cfg:
            cfg[key] = replaced(cfg[key])


def check_data(cfg: Config, *splits: str) -> None:
    """Make sure that the files of the named splits' data sets exist.

    Args:
        cfg: the config.
        splits: ``'train'``, ``'val'``, ``'test'``.

    Raises:
        FileNotFoundError: one does not; the message says how to choose another folder.
    """
    for loader, dataset in find_datasets(cfg, *splits):
        kind = registered(DATASETS, dataset.get("type"), cfg.get("default_scope"))
        if getattr(kind, "makes_its_data", False) or _downloads(kind, dataset):
            continue
        root = dataset.get("data_root") or ""
        prefixes = dataset.get("data_prefix") or {}
        # A single one is text in mmpretrain's configs.
        prefixes = [prefixes] if isinstance(prefixes, str) else prefixes.values()
        for part in (dataset.get("ann_file"), *prefixes):
            path = os.path.join(root, part) if isinstance(part, str) else root
            if path and "://" not in path and not os.path.exists(path):
                raise FileNotFoundError(
                    f"no data for {loader}: looked for {path} under data_root {root or '(none)'}; "
                    "name the folder that holds your data with --data-root DIR"
                )


def registered(registry: Registry, kind: Any, scope: str | None) -> Any:
    """The class of a name, or a class that a config in pure Python gives; ``None`` if unknown."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as found:
        return found.get(kind)


def _downloads(kind: Any, dataset: dict[str, Any]) -> bool:
    """Whether a data set fetches what is missing, as mmpretrain's CIFAR10."""
    option = inspect.signature(kind).parameters.get("download") if kind is not None else None
    return option is not None and dataset.get("download", option.default) is True


def find_datasets(cfg: Config, *splits: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every data set of the named splits' loaders, also inside wrappers, with the loader's name.

    Args:
        cfg: the config.
        splits: ``'train'``, ``'val'``, ``'test'``. Default: all.
    """
    for split in splits or _SPLITS:
        loader = f"{split}_dataloader"
        for _, part in nested_dicts((cfg.get(loader) or {}).get("dataset")):
            if "data_root" in part or "ann_file" in part:
                yield loader, part
