"""Labels of a batch that are no class of the model."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from ..engine.model import unwrap_model
from .annotations import ClassError


class LabelCheckHook(Hook):
    """Stops a run at a label, or at a label map's value, that is no class of the model.

    So for classifiers, detectors and segmentors. A GPU would stop later, without a reason, and the
    figures of a test would leave it out.

    Raises:
        ClassError: a label is out of range.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        _check_labels(runner.model, data_batch)


def _check_labels(model: nn.Module, batch: Any) -> None:
    model = unwrap_model(model)
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    # Of semi-supervised training it is a dict, of which only a part is labelled.
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        if "gt_sem_seg" in sample:
            _check_label_map(model, sample)
        elif "gt_label" in sample:
            _check_label(model, sample)
        if "gt_instances" in sample and "labels" in sample.gt_instances:
            _check_objects(model, sample)


def _check_label_map(model: nn.Module, sample: Any) -> None:
    data = sample.gt_sem_seg
    labels = data.data if "data" in data else data.sem_seg
    for name, classes, ignored in _semantic_heads(model):
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if len(wrong):
            raise ClassError(
                f"label map {sample.get('seg_map_path')}: {len(wrong)} pixels are not in one of "
                f"the {classes} classes (0 to {classes - 1}) of {name} nor ignored ({ignored}); "
                f"their values are {', '.join(map(str, wrong.unique().tolist()[:5]))}. Set the "
                "heads' num_classes, the data set's reduce_zero_label, or correct the label maps"
            )


def _semantic_heads(model: nn.Module) -> Iterator[tuple[str, int, int | None]]:
    """Name, number of classes and ignored value of the heads that learn from label maps."""
    for name, head in _heads(model, "decode_head", "semantic_head"):
        if (stuff := getattr(head, "num_stuff_classes", None)) is not None:
            # mmdet's panoptic FPN, whose own classes are the stuff and one for all things.
            classes = stuff + head.num_things_classes
        else:
            classes = getattr(head, "num_classes", None)
        ignored = getattr(head, "ignore_index", None)
        if name.endswith("semantic_head"):
            # mmdet's leave that to their loss.
            loss = getattr(head, "loss_seg", getattr(head, "criterion", None))
            ignored = getattr(loss, "ignore_index", None)
        if classes is not None:
            # One channel tells two classes apart.
            yield name, max(classes, 2), ignored


def _check_label(model: nn.Module, sample: Any) -> None:
    # AlexNet's head has none.
    holders = getattr(model, "head", None), getattr(model, "data_preprocessor", None)
    classes = next((n for h in holders if (n := getattr(h, "num_classes", None))), None)
    labels = getattr(sample.gt_label, "label", sample.gt_label)  # Of re-identification, in it.
    wrong = [n for n in labels.flatten().tolist() if classes is not None and not 0 <= n < classes]
    if wrong:
        raise ClassError(
            f"image {sample.get('img_path')}: label {wrong[0]} is not one of the {classes} classes "
            f"(0 to {classes - 1}). Set model.head.num_classes and data_preprocessor.num_classes, "
            "or correct the folders or annotations"
        )


def _check_objects(model: nn.Module, sample: Any) -> None:
    if any(kind.__name__ == "RPN" for kind in type(model).__mro__):
        return  # To it, every object is of one class.
    labels = sample.gt_instances.labels
    for name, head in _heads(model, "bbox_head"):
        classes = getattr(head, "num_classes", None)
        if classes is not None and len(wrong := labels[(labels < 0) | (labels >= classes)]):
            raise ClassError(
                f"image {sample.get('img_path')}: label {int(wrong[0])} of an object is not one of "
                f"the {classes} classes (0 to {classes - 1}) of {name}. Set the heads' num_classes "
                "to the number of the data set's classes, or name fewer in its metainfo"
            )


def _heads(model: nn.Module, *names: str) -> Iterator[tuple[str, nn.Module]]:
    """The heads of these names of a model or of its RoI head, each of those in a list."""
    for owner, prefix in ((model, ""), (getattr(model, "roi_head", None), "roi_head.")):
        for name in names:
            head = getattr(owner, name, None)
            several = isinstance(head, nn.ModuleList)
            for part in head if several else [head]:
                if isinstance(part, nn.Module):
                    yield prefix + name, part
