"""Configs in pure Python: their types are classes."""

import pytest

from mmlearnconv import cli
from mmlearnconv.datasets import name_unreadable_images
from mmlearnconv.engine import check_pretrained

IMPORTS = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models import RetinaNet, ResNet
from mmengine.dataset import pseudo_collate
from mmengine.model import PretrainedInit
from mmengine.optim import OptimWrapper
from torch.nn import BatchNorm2d
from torch.optim import SGD

from mmlearnconv.engine import LearnableConvOptimWrapperConstructor
from mmlearnconv.layers import CoCConv2d, DeformableKernelConv2d, DRConv2d
"""
CONFIG = """
model = dict(
    type=RetinaNet,
    backbone=dict(
        type=ResNet,
        conv_cfg=dict(type=CoCConv2d),
        init_cfg=dict(type=PretrainedInit, checkpoint="a"),
    ),
    neck=dict(conv_cfg=dict(type=DRConv2d)),
    bbox_head=dict(conv_cfg=dict(type=DeformableKernelConv2d)),
)
train_dataloader = dict(
    collate_fn=dict(type=pseudo_collate),
    dataset=dict(
        type=CocoDataset, pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations)]
    ),
)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=LearnableConvOptimWrapperConstructor,
    optimizer=dict(type=SGD, lr=0.1),
)
default_hooks = dict(visualization=dict(type=DetVisualizationHook))
"""


def read(folder, text, *imports):
    path = folder / "config.py"
    path.write_text("".join((*imports, text)))
    return cli.read_config(path)


OTHERWISE_NAMED = dict(
    CoCConv2d="CoC", DeformableKernelConv2d="DK", DRConv2d="DRConv", PretrainedInit="Pretrained"
)


def in_text(config):
    """The same with names in the place of classes."""
    imported = [line.partition(" import ")[2] for line in IMPORTS.splitlines()]
    for name in ", ".join(filter(None, imported)).split(", "):
        config = config.replace(f"={name}", f"={OTHERWISE_NAMED.get(name, name)!r}")
    return config


def test_classes_read_as_their_names_do(tmp_path):
    text = read(tmp_path, in_text(CONFIG), "default_scope = 'mmdet'").to_dict()
    assert read(tmp_path, CONFIG, IMPORTS).to_dict() == text
    # As load_config() does: other classes take the places of some.
    name_unreadable_images("mmdet")
    check_pretrained()
    assert read(tmp_path, CONFIG, IMPORTS).to_dict() == text


def test_the_model_s_class_tells_the_toolbox(tmp_path):
    wrapped = "from mmseg.models import EncoderDecoder\nmodel = dict(type='SwapConv', target={})"
    assert read(tmp_path, wrapped.format("EncoderDecoder")).default_scope == "mmseg"
    own = "from torch.nn import Identity\nmodel = dict(type=Identity)"
    assert "default_scope" not in read(tmp_path, own)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_name_that_means_another_class_gets_its_scope(tmp_path, scope):
    """mmcv, mmdet and mmseg each have a transform of this name."""
    text = "from {} import LoadAnnotations\nmodel = dict(a=dict(type=LoadAnnotations))\n"
    for module, name in {
        f"{scope}.datasets.transforms": "LoadAnnotations",
        "mmcv.transforms": "mmengine.LoadAnnotations",
    }.items():
        cfg = read(tmp_path, text.format(module), f"default_scope = {scope!r}\n")
        assert cfg.model.a.type == name


def test_what_has_no_name_or_several_stays(tmp_path):
    """``nn.Upsample`` is registered as 'nearest' and 'bilinear', ``nn.Flatten`` is not."""
    from torch import nn

    text = "from torch.nn import Flatten, Upsample\n"
    text += "model = dict(a=dict(type=Upsample), b=dict(type=Flatten))\n"
    model = read(tmp_path, text).model
    assert model.a.type is nn.Upsample
    assert model.b.type is nn.Flatten
