"""Labels of a batch that are no class of the model, head by head."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmlearnconv.cli.annotations import ClassError
from mmlearnconv.cli.labels import LabelCheckHook


class Head(nn.Module):
    def __init__(self, num_classes, ignore_index=255, **values):
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        for name, value in values.items():
            setattr(self, name, value)


class Model(nn.Module):
    def __init__(self, **heads):
        super().__init__()
        for name, head in heads.items():
            setattr(self, name, head)


class Runner:
    def __init__(self, model):
        self.model = model


def check(model, sample):
    LabelCheckHook().before_train_iter(Runner(model), 0, dict(data_samples=[sample]))


def label_map(*values, detector=False):
    labels = torch.tensor(values)[None, None]
    data = PixelData(sem_seg=labels) if detector else PixelData(data=labels)
    kind = DetDataSample if detector else SegDataSample
    return kind(gt_sem_seg=data, metainfo=dict(seg_map_path="a.png"))


def objects(*labels):
    found = InstanceData(labels=torch.tensor(labels))
    return DetDataSample(gt_instances=found, metainfo=dict(img_path="a.jpg"))


PANOPTIC_FPN = Head(
    4, None, num_things_classes=5, num_stuff_classes=3, loss_seg=Head(4, ignore_index=255)
)
# A model, the largest label that it takes, and how it gets it.
CASES = {
    "one head": (Model(decode_head=Head(6)), 5, label_map),
    "one channel": (Model(decode_head=Head(1)), 1, label_map),
    "a cascade": (Model(decode_head=nn.ModuleList([Head(6), Head(6)])), 5, label_map),
    "panoptic FPN": (Model(semantic_head=PANOPTIC_FPN), 7, lambda *v: label_map(*v, detector=True)),
    "a RoI head's": (
        Model(roi_head=Model(semantic_head=Head(6))),
        5,
        lambda *v: label_map(*v, detector=True),
    ),
    "one stage": (Model(bbox_head=Head(6)), 5, objects),
    "two stages": (Model(roi_head=Model(bbox_head=Head(6))), 5, objects),
    "three stages": (Model(roi_head=Model(bbox_head=nn.ModuleList([Head(6)] * 3))), 5, objects),
}


@pytest.mark.parametrize("name", CASES)
def test_a_label_that_is_no_class(name):
    model, largest, sample = CASES[name]
    check(model, sample(0, largest))
    with pytest.raises(ClassError, match=rf"a\.(png|jpg).* {largest + 1}\b.*num_classes"):
        check(model, sample(0, largest + 1))
    with pytest.raises(ClassError):
        check(model, sample(0, -1))


def test_identities_are_labels():
    """mmdet packs those of re-identification in a structure of their own."""
    sample = DetDataSample(gt_label=LabelData(label=torch.tensor([5])))
    check(Model(head=Head(6)), sample)
    with pytest.raises(ClassError, match="label 5 is not one of the 5 classes"):
        check(Model(head=Head(5)), sample)


def test_what_is_ignored_is_no_fault():
    check(Model(decode_head=nn.ModuleList([Head(6), Head(6)])), label_map(0, 255))
    check(Model(semantic_head=PANOPTIC_FPN), label_map(0, 255, detector=True))
    check(Model(), label_map(9))
    check(Model(), objects(9))


def test_region_proposals_are_of_no_class():
    class RPN(Model):
        pass

    check(RPN(bbox_head=Head(1)), objects(7))
