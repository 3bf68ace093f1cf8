"""What is wrong with annotations that a run could not be built on."""

import json
import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS

from ..engine.model import unwrap_model
from .data import find_datasets

_PARTS = ("images", "annotations", "categories")


class ClassError(ValueError):
    """Classes of a data set, its annotations and the model that do not fit together."""


class ClassCheckHook(Hook):
    """Stops a run whose annotations lack a class of the data set, which mmdet would pass over.

    Raises:
        ClassError: so it is.
    """

    def before_train(self, runner: Any) -> None:
        _check_classes(runner.train_dataloader.dataset)

    def before_val(self, runner: Any) -> None:
        _check_classes(runner.val_dataloader.dataset)

    def before_test(self, runner: Any) -> None:
        _check_classes(runner.test_dataloader.dataset)


class LabelCheckHook(Hook):
    """Stops a run at a label, or at a label map's value, that is no class of the model.

    So for classifiers and segmentors. A GPU would stop later, without a reason, and the figures of
    a test would leave it out.

    Raises:
        ClassError: so it is.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)


def explain_data(cfg: Config, *splits: str) -> str | None:
    """What is wrong with COCO annotations, or folders of classes, of the config's data sets.

    It reads them all: to be called once something has failed.

    Args:
        cfg: the config.
        splits: ``'train'``, ``'val'``, ``'test'``.

    Returns:
        str | None: the first problem, ``None`` if there is none.
    """
    scope = cfg.get("default_scope")
    for loader, dataset in find_datasets(cfg, *splits):
        root, ann_file = dataset.get("data_root") or "", dataset.get("ann_file") or ""
        path, problem = os.path.join(root, ann_file), None
        if path.endswith(".json") and os.path.isfile(path):
            problem = _problem(path, dataset, scope)
        elif scope == "mmpretrain" and not ann_file:
            prefix = dataset.get("data_prefix") or dataset.get("split") or ""
            # mmpretrain's data sets take either form.
            path = os.path.join(
                root, prefix.get("img_path", "") if isinstance(prefix, dict) else prefix
            )
            problem = _problem_of_folders(path, dataset, scope)
        if problem:
            return f"{loader}: {path} {problem}"
    return None


def _problem_of_folders(path: str, dataset: dict[str, Any], scope: str) -> str | None:
    if not os.path.isdir(path):
        return None
    found = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    classes = _classes(dataset, scope)
    if classes and len(classes) != len(found):
        return (
            f"has {len(found)} folders ({_few(found)}), and the data set {len(classes)} classes "
            f"({_few(classes)}): one folder per class. Give dataset.type='CustomDataset', whose "
            "classes are the folders, and the head's num_classes"
        )
    if not any(files for _, _, files in os.walk(path)):
        return "has no image in its folders"
    return None


def _problem(path: str, dataset: dict[str, Any], scope: str | None) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
    except ValueError as error:
        return f"is damaged ({error}); copy or download it again"
    missing = [part for part in _PARTS if not isinstance(known, dict) or part not in known]
    if missing:
        return f"holds no annotations of COCO: it has no {', '.join(missing)}"
    if not known["images"]:
        return "lists no image"
    classes = _classes(dataset, scope)
    found = [category["name"] for category in known["categories"]]
    if classes and not set(classes) & set(found):
        return _say_classes(classes, found)
    if not known["annotations"]:
        return "annotates no image, and images without objects are left out (filter_cfg)"
    return None


def _classes(dataset: dict[str, Any], scope: str | None) -> Sequence[str]:
    """Those of a data set's config, else of its type."""
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(dataset["type"])
    classes = (dataset.get("metainfo") or {}).get("classes")
    return classes or getattr(kind, "METAINFO", {}).get("classes", ())


def _say_classes(classes: Sequence[str], found: Sequence[str]) -> str:
    return (
        f"has none of the data set's classes {_few(classes)}; its categories are {_few(found)}. "
        "Give dataset.metainfo=dict(classes=(...)) and the heads' num_classes"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *["..."] * (len(names) > 5)])


def _check_classes(dataset: Any) -> None:
    for inner in [*getattr(dataset, "datasets", []), getattr(dataset, "dataset", None)]:
        if inner is not None:
            _check_classes(inner)
    ids = getattr(dataset, "cat_ids", None)
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    if ids is None or not classes or len(ids) >= len(classes):
        return
    with open(dataset.ann_file, encoding="utf-8") as file:
        found = [category["name"] for category in json.load(file)["categories"]]
    missing = [name for name in classes if name not in found]
    raise ClassError(
        f"{dataset.ann_file} has no category {', '.join(missing)}, which is among the data set's "
        f"classes; its categories are {', '.join(found)}"
    )


def _check_labels(model: Any, batch: Any) -> None:
    model = unwrap_model(model)
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    for sample in samples or []:
        if "gt_sem_seg" in sample:
            _check_label_map(getattr(model, "decode_head", None), sample)
        elif "gt_label" in sample:
            _check_label(model, sample)


def _check_label_map(head: Any, sample: Any) -> None:
    classes, ignored = (getattr(head, name, None) for name in ("num_classes", "ignore_index"))
    if classes is None:
        return
    # One channel tells two classes apart.
    classes = max(classes, 2)
    labels = sample.gt_sem_seg.data
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
    if len(wrong):
        raise ClassError(
            f"label map {sample.get('seg_map_path')}: {len(wrong)} pixels are not in one of "
            f"the {classes} classes (0 to {classes - 1}) nor ignored ({ignored}); their values "
            f"are {', '.join(map(str, wrong.unique().tolist()[:5]))}. Set the heads' "
            "num_classes, the data set's reduce_zero_label, or correct the label maps"
        )


def _check_label(model: Any, sample: Any) -> None:
    # AlexNet's head has none.
    holders = getattr(model, "head", None), getattr(model, "data_preprocessor", None)
    classes = next((n for h in holders if (n := getattr(h, "num_classes", None))), None)
    wrong = [n for n in sample.gt_label.tolist() if classes is not None and not 0 <= n < classes]
    if wrong:
        raise ClassError(
            f"image {sample.get('img_path')}: label {wrong[0]} is not one of the {classes} classes "
            f"(0 to {classes - 1}). Set model.head.num_classes and data_preprocessor.num_classes, "
            "or correct the folders or annotations"
        )
