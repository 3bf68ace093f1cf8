"""Random images with ground truth, for models that are only tried."""

from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..analysis import input_channels
from .nested import nested_dicts


def random_inputs(
    model: nn.Module, cfg: Config, size: tuple[int, int], training: bool, images: int = 1
) -> dict[str, Any]:
    """Images of noise with ground truth, as the model's ``forward`` takes them.

    They have the channels that the model's first layer takes.

    Args:
        model: a detector of mmdet, a segmentor of mmseg or a classifier of mmpretrain.
        cfg: its config; says which toolbox, how many classes, and whether there are masks.
        size: height and width of the images.
        training: whether they are for ``mode='loss'``.
        images: how many. Default: 1.
    """
    counts = [part.get("num_classes") for _, part in nested_dicts(cfg.model)]
    classes = min((count for count in counts if isinstance(count, int)), default=20)
    scope = cfg.get("default_scope", "mmdet")
    make = dict(mmseg=_segmentation, mmpretrain=_classification).get(scope, _detection)
    return model.data_preprocessor(make(model, cfg, size, images, classes), training)


def _detection(
    model: nn.Module, cfg: Config, size: tuple[int, int], images: int, classes: int
) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs

    steps = [step for _, step in nested_dicts(cfg.get("train_dataloader"))]
    return demo_mm_inputs(
        images,
        [[input_channels(model, size), *size]] * images,
        num_items=[3] * images,
        num_classes=classes,
        with_mask=any(s.get("with_mask", "LoadPanoptic" in str(s.get("type"))) for s in steps),
        with_semantic="panoptic" in type(model).__name__.lower(),
    )


def _segmentation(
    model: nn.Module, cfg: Config, size: tuple[int, int], images: int, classes: int
) -> dict[str, Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(images):
        labels = torch.randint(0, classes, (1, *size))
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta))
    return dict(inputs=_noise(model, size, images), data_samples=samples)


def _classification(
    model: nn.Module, cfg: Config, size: tuple[int, int], images: int, classes: int
) -> dict[str, Any]:
    from mmpretrain.structures import DataSample, MultiTaskDataSample

    samples = [DataSample().set_gt_label(i % classes) for i in range(images)]
    if tasks := getattr(getattr(model, "head", None), "task_heads", None):
        plain, samples = samples, [MultiTaskDataSample() for _ in samples]
        for own, sample in zip(samples, plain, strict=True):
            for task in tasks:
                own.set_field(sample.clone(), task)
    # Its data preprocessor takes a batch.
    return dict(inputs=torch.stack(_noise(model, size, images)), data_samples=samples)


def _noise(model: nn.Module, size: tuple[int, int], images: int) -> list[torch.Tensor]:
    shape = input_channels(model, size), *size
    return [torch.randint(0, 255, shape, dtype=torch.uint8) for _ in range(images)]
