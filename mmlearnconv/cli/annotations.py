"""Checks of annotations and classes before a run, by the rules of the library that reads them."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS, METRICS

from ..errors import UserValueError
from .data import find_datasets, registered
from .distributed import is_first
from .nested import nested_dicts

# Where a class's method stands decides whose rules hold: a user's own loader is not checked.
_COCO_LOADERS = ("mmdet.CocoDataset", "mmdet.Objects365V1Dataset")
# It numbers classes by the categories' ids.
_SORTED_LOADER = "mmdet.Objects365V1Dataset"
_COCO_PARSER = "mmdet.CocoDataset"
_COCO_METRIC = "mmdet.CocoMetric"
_OPENMMLAB_LOADER = "mmengine.BaseDataset"
_FOLDERS_LOADER = "mmpretrain.CustomDataset"
# Of JSON. Not numbers.Real, whose look-ups take longer than reading the file.
_NUMBER = (int, float)
_HELP = "docs/troubleshooting.md, 'Annotations that lack a key', has a program that does so"


class ClassError(UserValueError):
    """Annotations, or classes of a data set and the model, that do not fit together."""


def check_annotations(cfg: Config, *splits: str) -> None:
    """Make sure that annotations can be read as the config's data sets and metrics will read them.

    Files in COCO's format are checked where mmdet's ``CocoDataset`` and ``CocoMetric`` read them,
    files in OpenMMLab's own format where mmengine's ``BaseDataset`` does, folders of classes where
    mmpretrain's ``CustomDataset`` does. Other loaders, a user's own among them, are left to
    themselves. Of a distributed run, the first process reads the files.

    Args:
        cfg: the config.
        splits: ``'train'``, ``'val'``, ``'test'``.

    Raises:
        ClassError: something could not be read, or would be read wrongly; the message names file,
            entry and key, and says what to do.
    """
    if not is_first(cfg.get("launcher", "none")):
        return
    # What files list, in their order, by the classes that the data sets want of them.
    orders: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
    for split in splits:
        files: dict[str, Any] = {}
        wanted: set[str] | None = set()
        for loader, dataset in find_datasets(cfg, split):
            found = _check_dataset(loader, dataset, cfg.get("default_scope"), files)
            if found is None:
                wanted = None
                continue
            path, classes, names = found
            wanted = None if wanted is None or not classes else wanted | {*classes}
            for first, others in orders.setdefault(classes, []):
                _compare_orders(first, others, path, names)
            orders[classes].append((path, names))
        for evaluator, metric in _coco_metrics(cfg, split):
            path = metric["ann_file"]
            if path.endswith(".json") and os.path.isfile(path):
                known = _read(evaluator, path, files)
                _check_evaluated(evaluator, path, known, metric, wanted)


def _compare_orders(
    path: str, names: Sequence[str], other_path: str, other_names: Sequence[str]
) -> None:
    both = {*names} & {*other_names}
    order, other = ([n for n in found if n in both] for found in (names, other_names))
    if order != other:
        raise ClassError(
            f"{path} and {other_path} list the categories in different orders ({_few(order)}, and "
            f"{_few(other)}); mmdet numbers classes in a file's order, so that labels would be "
            "exchanged. Write both in one order"
        )


def _check_dataset(
    loader: str, dataset: dict[str, Any], scope: str | None, files: dict[str, Any]
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """Check one data set; of a file in COCO's format, give path, classes, and their order there."""
    kind = registered(DATASETS, dataset.get("type"), scope)
    loads = _defined_in(kind, "load_data_list")
    root, ann_file = dataset.get("data_root") or "", dataset.get("ann_file") or ""
    if getattr(kind, "makes_its_data", False) or not isinstance(root, str):
        return None
    if loads == _FOLDERS_LOADER and not ann_file and not dataset.get("split"):
        _check_folders(loader, _folder(dataset), dataset, _classes(loader, dataset, kind))
    if not isinstance(ann_file, str) or not ann_file.endswith(".json"):
        return None
    path = os.path.join(root, ann_file)
    if not os.path.isfile(path):
        return None
    if loads == _OPENMMLAB_LOADER:
        _check_openmmlab(loader, path, _read(loader, path, files))
    if loads not in _COCO_LOADERS:
        return None
    classes = _classes(loader, dataset, kind)
    known = _read(loader, path, files)
    return path, classes, _check_coco(loader, path, known, dataset, kind, classes)


def _defined_in(kind: Any, method: str) -> str | None:
    """The class that a class has a method from, as ``'mmdet.CocoDataset'``."""
    for owner in getattr(kind, "__mro__", ()):
        if method in vars(owner):
            return f"{owner.__module__.split('.')[0]}.{owner.__name__}"
    return None


def _classes(loader: str, dataset: dict[str, Any], kind: Any) -> tuple[str, ...]:
    """As mmengine's ``BaseDataset`` finds them: the config's, in text or in a file, or the type's.

    Raises:
        ClassError: they are one text, and no file.
    """
    metainfo = dataset.get("metainfo")
    for key, part in (("metainfo.classes", metainfo), ("classes", dataset)):
        # mmpretrain's data sets take them as an argument of their own, too.
        if not isinstance(part, dict) or (classes := part.get("classes")) is None:
            continue
        if not isinstance(classes, str):
            return tuple(classes)
        path = os.path.expanduser(classes)
        if "://" not in path and not os.path.isfile(path):
            raise ClassError(
                f"{loader}.dataset.{key}: {classes!r} is text, and no file of that name lists the "
                f"classes; one class is written ({classes!r},), with a comma"
            )
        return tuple(list_from_file(path))
    return tuple(getattr(kind, "METAINFO", {}).get("classes") or ())


def _read(name: str, path: str, files: dict[str, Any]) -> Any:
    if path not in files:
        try:
            with open(path, encoding="utf-8") as file:
                files[path] = json.load(file)
        except ValueError as error:
            raise ClassError(
                f"{name}: {path} is damaged ({error}); copy or download it again"
            ) from error
    return files[path]


def _check_openmmlab(loader: str, path: str, known: Any) -> None:
    missing = [key for key in ("metainfo", "data_list") if key not in _dict(known)]
    if missing:
        hint = ""
        if {"images", "categories"} <= set(_dict(known)):
            hint = "; it looks like COCO's: give dataset.type='CocoDataset'"
        raise ClassError(
            f"{loader}: {path} is not in OpenMMLab's format: it has no {', '.join(missing)}{hint}"
        )


def _check_coco(
    loader: str,
    path: str,
    known: Any,
    dataset: dict[str, Any],
    kind: Any,
    classes: Sequence[str],
) -> tuple[str, ...]:
    """What mmdet's ``CocoDataset`` needs; returns its classes in the file's order."""
    where = f"{loader}: {path}"
    training = not dataset.get("test_mode")
    drops_empty = training and (dataset.get("filter_cfg") or {}).get("filter_empty_gt")
    # Without annotations, a file names the images of a test whose truth is not public.
    parts = ["images", "categories", *["annotations"] * bool(drops_empty)]
    if missing := [part for part in parts if not isinstance(_dict(known).get(part), list)]:
        hint = ""
        if "data_list" in _dict(known):
            hint = "; it looks like OpenMMLab's own format: give dataset.type='BaseDetDataset'"
        raise ClassError(
            f"{where} holds no annotations of COCO: it has no {', '.join(missing)}{hint}"
        )
    images, annotations = known["images"], known.get("annotations") or []
    if not images:
        raise ClassError(f"{where} lists no image")
    _need(where, "category", known["categories"], dict(id=None, name=None))
    categories = known["categories"]
    if _defined_in(kind, "load_data_list") == _SORTED_LOADER:
        categories = sorted(categories, key=lambda category: category["id"])
    found = [category["name"] for category in categories]
    names = tuple(name for name in found if name in classes or not classes)
    if classes and not names:
        raise ClassError(
            f"{where} has none of the data set's classes {_few(classes)}; its categories are "
            f"{_few(found)}. Give dataset.metainfo=dict(classes=(...)) and the heads' num_classes"
        )
    # One that is missing at the end exchanges no labels.
    if classes and {*names} != {*classes[: len({*names})]}:
        absent = [name for name in classes if name not in found]
        raise ClassError(
            f"{where} has no category {_few(absent)}, which is among the data set's classes; its "
            f"categories are {_few(found)}. mmdet would give its number to the next class: add it "
            "to the file's categories, or correct the name"
        )
    if twice := [name for name in sorted(set(names)) if names.count(name) > 1]:
        raise ClassError(
            f"{where} has several categories of the name {twice[0]}, as exports with a root "
            "category do; mmdet would number each. Remove the unused ones from a copy of the file"
        )
    if drops_empty and not annotations:
        raise ClassError(
            f"{where} annotates no image, and images without objects are left out (filter_cfg)"
        )
    if list(names) != [name for name in classes or names if name in names]:
        print_log(
            f"{where} lists its categories as {_few(names)}, and dataset.metainfo.classes as "
            f"{_few(classes)}: mmdet numbers classes in the file's order, so that pictures will "
            "show exchanged names. Write classes in the file's order",
            "current",
            logging.WARNING,
        )
    _need(where, "image", images, dict(id=None))
    _need_unique(where, "image", images)
    _need(where, "annotation", annotations, dict(id=None, image_id=None, category_id=None))
    if getattr(kind, "ANN_ID_UNIQUE", True):
        listed = {image["id"] for image in images}
        _need_unique(where, "annotation", [a for a in annotations if a["image_id"] in listed])
    if _defined_in(kind, "parse_data_info") == _COCO_PARSER:
        _need(where, "image", images, dict(file_name=None, height=_NUMBER, width=_NUMBER))
        kept = {c["id"] for c in known["categories"] if c["name"] in names}
        sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        _check_parsed(where, annotations, sizes, kept, _wants_masks(dataset))
    return names


def _check_parsed(
    where: str,
    annotations: Iterable[dict[str, Any]],
    sizes: dict[Any, tuple[float, float]],
    kept: set[Any],
    masks: bool,
) -> None:
    """What mmdet reads of each annotation when it parses the file, and its masks when it trains."""
    read = [a for a in annotations if a["image_id"] in sizes and not a.get("ignore")]
    _need_boxes(where, read)
    read = [a for a in read if _touches(a["bbox"], *sizes[a["image_id"]])]
    _need(where, "annotation", read, dict(area=_NUMBER), _AREA)
    if masks:
        shown = [
            a
            for a in read
            if a["category_id"] in kept and a["area"] > 0 and min(a["bbox"][2:]) >= 1
        ]
        _need_masks(where, shown, "the pipeline loads masks (with_mask=True)")


def _touches(box: Sequence[float], width: float, height: float) -> bool:
    x, y, w, h = box
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def _check_evaluated(
    where: str, path: str, known: Any, metric: dict[str, Any], classes: set[str] | None
) -> None:
    """What COCO's evaluation reads of each annotation of the classes; of all if ``None``."""
    where = f"{where}: {path}"
    annotations = _dict(known).get("annotations")
    if not isinstance(annotations, list):
        raise ClassError(
            f"{where} has no annotations to evaluate against; give another ann_file, or "
            "format_only=True and outfile_prefix to write predictions only"
        )
    _need(where, "annotation", annotations, dict(id=None, image_id=None, category_id=None))
    kinds = metric.get("metric", "bbox")
    kinds = {kinds} if isinstance(kinds, str) else {*kinds}
    if classes is not None and not kinds & {"proposal", "proposal_fast"}:
        kept = {c.get("id") for c in known.get("categories") or () if c.get("name") in classes}
        annotations = [a for a in annotations if a["category_id"] in kept]
    _need(
        where,
        "annotation",
        annotations,
        dict(iscrowd=_NUMBER),
        f'an object that is no crowd has "iscrowd": 0: add that to each of them ({_HELP})',
    )
    _need_boxes(where, annotations)
    if kinds == {"proposal_fast"}:
        return
    _refuse(
        where,
        "annotation",
        annotations,
        lambda a: not _reads_as_number(a["id"]),
        lambda a: f"has id={_short(a['id'])}, which is no number",
        f"COCO's evaluation stores ids as numbers: number the annotations from 1 ({_HELP})",
    )
    _need(where, "annotation", annotations, dict(area=_NUMBER), _AREA)
    if "segm" in kinds:
        _need_masks(where, annotations, "metric='segm' compares masks", coded=True)
    if any(a["id"] == 0 for a in annotations):
        print_log(
            f"{where}: the annotation with id 0 counts as missed however well it is found: "
            "pycocotools takes 0 for no match. Number the annotations from 1",
            "current",
            logging.WARNING,
        )


def _reads_as_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


_AREA = f"it is the area of the mask, or of the box where there is none: add it ({_HELP})"


def _need(
    where: str,
    what: str,
    entries: Iterable[Any],
    keys: dict[str, tuple[type, ...] | None],
    mend: str = "add or correct it",
) -> None:
    """Refuse entries that lack a key, or whose value is not of the key's type."""
    entries = list(entries)
    for entry in entries:
        if not isinstance(entry, dict):
            raise ClassError(f"{where}: {what} {_short(entry)} is no object of keys and values")
    for key, kind in keys.items():
        _refuse(
            where,
            what,
            entries,
            lambda entry, key=key: key not in entry,
            f"has no {key!r}",
            mend,
        )
        if kind is not None:
            _refuse(
                where,
                what,
                entries,
                lambda entry, key=key, kind=kind: not isinstance(entry[key], kind),
                lambda entry, key=key: f"has {key}={_short(entry[key])}, which is no number",
                mend,
            )


def _refuse(
    where: str,
    what: str,
    entries: Sequence[dict[str, Any]],
    is_wrong: Callable[[dict[str, Any]], bool],
    fault: str | Callable[[dict[str, Any]], str],
    mend: str,
) -> None:
    wrong = [entry for entry in entries if is_wrong(entry)]
    if wrong:
        first = wrong[0]
        others = f" (and {len(wrong) - 1} others)" * (len(wrong) > 1)
        text = fault if isinstance(fault, str) else fault(first)
        name = first.get("id", first.get("file_name", entries.index(first)))
        raise ClassError(f"{where}: {what} {name}{others} {text}; {mend}")


def _need_unique(where: str, what: str, entries: Iterable[dict[str, Any]]) -> None:
    seen: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        if seen.setdefault(entry["id"], entry) != entry or (
            what == "annotation" and seen[entry["id"]] is not entry
        ):
            raise ClassError(
                f"{where}: two {what}s have the id {entry['id']}; give each its own, as files that "
                "were joined do not"
            )


def _need_boxes(where: str, annotations: Sequence[dict[str, Any]]) -> None:
    _refuse(
        where,
        "annotation",
        annotations,
        lambda a: not (_numbers(a.get("bbox")) and len(a["bbox"]) == 4),
        lambda a: f"has bbox={_short(a['bbox'])}" if "bbox" in a else "has no 'bbox'",
        "a box is [x, y, width, height] in pixels",
    )


def _need_masks(
    where: str, annotations: Sequence[dict[str, Any]], reason: str, coded: bool = False
) -> None:
    """Refuse annotations without masks; with ``coded``, also run-length codes that lack a part."""
    _refuse(
        where,
        "annotation",
        annotations,
        lambda a: not a.get("segmentation"),
        "has no segmentation",
        f"{reason}: add masks, or take a model without a mask head",
    )
    _refuse(
        where,
        "annotation",
        annotations,
        lambda a: isinstance(a["segmentation"], list) and _numbers(a["segmentation"][:1]),
        "has a polygon that is not in a list",
        "write [[x1, y1, x2, y2, ...]], a list of polygons",
    )
    _refuse(
        where,
        "annotation",
        annotations,
        lambda a: not _is_mask(a["segmentation"], coded),
        lambda a: f"has segmentation={_short(a['segmentation'])}",
        "a mask is a list of polygons [x1, y1, ...], or a run-length code with size and counts",
    )


def _is_mask(mask: Any, coded: bool) -> bool:
    if isinstance(mask, dict):
        # mmdet ignores an object whose code lacks a part.
        return not coded or {"size", "counts"} <= set(mask)
    return isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, _NUMBER) for number in value)


def _wants_masks(dataset: dict[str, Any]) -> bool:
    return any(step.get("with_mask") for _, step in nested_dicts(dataset.get("pipeline")))


def _coco_metrics(cfg: Config, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The metrics of a split that compare with a file in COCO's format."""
    for _, metric in nested_dicts(cfg.get(f"{split}_evaluator")):
        if not isinstance(metric.get("ann_file"), str) or metric.get("format_only"):
            continue
        kind = registered(METRICS, metric.get("type"), cfg.get("default_scope"))
        if _defined_in(kind, "compute_metrics") == _COCO_METRIC:
            yield f"{split}_evaluator", metric


def _folder(dataset: dict[str, Any]) -> str:
    """The folder of folders; a prefix is text or a dict in mmpretrain's configs."""
    prefix = dataset.get("data_prefix") or dataset.get("split") or ""
    if isinstance(prefix, dict):
        prefix = prefix.get("img_path", "")
    return os.path.join(dataset.get("data_root") or "", prefix)


def _check_folders(loader: str, path: str, dataset: dict[str, Any], classes: Sequence[str]) -> None:
    if not os.path.isdir(path) or not dataset.get("with_label", True):
        return
    found = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    if classes and len(classes) != len(found):
        raise ClassError(
            f"{loader}: {path} has {len(found)} folders ({_few(found)}), and the data set "
            f"{len(classes)} classes ({_few(classes)}): one folder per class. Correct the folders, "
            "or give dataset.type='CustomDataset' without classes, whose classes are then the "
            "folders, and the head's num_classes"
        )
    if not any(files for _, _, files in os.walk(path, followlinks=True)):
        raise ClassError(f"{loader}: {path} has no image in its folders")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _few(names: Sequence[str]) -> str:
    return ", ".join([*map(str, names[:5]), *["..."] * (len(names) > 5)])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
