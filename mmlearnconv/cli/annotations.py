"""What is wrong with annotations that a run could not be built on."""

import json
import os
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
    """Stops a run at a label map with a value that is no class of the segmentor.

    A GPU would stop later, without a reason, and the figures of a test would leave it out.

    Raises:
        ClassError: so it is.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)


def explain_data(cfg: Config) -> str | None:
    """What is wrong with COCO annotations of the config's data sets; ``None`` if nothing is.

    It reads them all: to be called once something has failed.
    """
    for loader, dataset in find_datasets(cfg):
        path = os.path.join(dataset.get("data_root") or "", dataset.get("ann_file") or "")
        if not path.endswith(".json") or not os.path.isfile(path):
            continue
        if problem := _problem(path, dataset, cfg.get("default_scope")):
            return f"{loader}: {path} {problem}"
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
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(dataset["type"])
    classes = (dataset.get("metainfo") or {}).get("classes")
    classes = classes or getattr(kind, "METAINFO", {}).get("classes", ())
    found = [category["name"] for category in known["categories"]]
    if classes and not set(classes) & set(found):
        return _say_classes(classes, found)
    if not known["annotations"]:
        return "annotates no image, and images without objects are left out (filter_cfg)"
    return None


def _say_classes(classes: Any, found: list[str]) -> str:
    few = [", ".join([*names[:5], *["..."] * (len(names) > 5)]) for names in (classes, found)]
    return (
        f"has none of the data set's classes {few[0]}; its categories are {few[1]}. Give "
        "dataset.metainfo=dict(classes=(...)) and the heads' num_classes"
    )


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
    head = getattr(unwrap_model(model), "decode_head", None)
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    classes, ignored = (getattr(head, name, None) for name in ("num_classes", "ignore_index"))
    if classes is None or not samples:
        return
    # One channel tells two classes apart.
    classes = max(classes, 2)
    for sample in samples:
        if "gt_sem_seg" not in sample:
            continue
        labels = sample.gt_sem_seg.data
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if len(wrong):
            raise ClassError(
                f"label map {sample.get('seg_map_path')}: {len(wrong)} pixels are not in one of "
                f"the {classes} classes (0 to {classes - 1}) nor ignored ({ignored}); their values "
                f"are {', '.join(map(str, wrong.unique().tolist()[:5]))}. Set the heads' "
                "num_classes, the data set's reduce_zero_label, or correct the label maps"
            )
