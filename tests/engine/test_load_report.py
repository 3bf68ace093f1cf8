"""What is said of a checkpoint of load_from, and when it is refused."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from mmengine.config import Config
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from mmlearnconv.engine import CheckpointError, LoadReportHook
from mmlearnconv.models import ConvNeXt
from tests.engine.test_pretrained import ARCH

AUTHORS = dict(
    depthwise_conv="dwconv",
    pointwise_conv1="pwconv1",
    pointwise_conv2="pwconv2",
)


def detector(backbone):
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Conv2d(3, 4, 1)))


def load(model, state_dict):
    """As mmengine's runner does."""
    hook, run = LoadReportHook(), SimpleNamespace(model=model, cfg={})
    checkpoint = dict(state_dict=state_dict)
    hook.after_load_checkpoint(run, checkpoint)
    _load_checkpoint_to_model(model, checkpoint, strict=False)
    hook.before_train(run)
    hook.before_val(run)


def lines(said):
    return [line for line in said if line.startswith("tensors set")]


def test_parts_are_counted(said):
    source = detector(ResNet(18)).state_dict()
    kept = {k: v for k, v in source.items() if not k.startswith(("head.", "backbone.layer4."))}
    load(detector(ResNet(18)), kept)
    # Without batch norms' counters.
    count = sum("tracked" not in key for key in kept)
    total = sum("tracked" not in key for key in source) - 2
    assert lines(said) == [
        f"tensors set by the checkpoint: backbone {count} of {total}, head 0 of 2; "
        "not in the file: backbone.layer4.0.conv1.weight, backbone.layer4.0.bn1.weight, "
        f"backbone.layer4.0.bn1.bias and {total + 2 - count - 3} more"
    ]


def test_other_shapes_are_not_counted(said):
    """As of a head for another number of classes, which mmengine leaves as it was drawn."""
    model = nn.ModuleDict(dict(backbone=ResNet(18), head=nn.Conv2d(3, 5, 1)))
    load(model, detector(ResNet(18)).state_dict())
    (line,) = lines(said)
    assert line.endswith(", head 0 of 2; of another shape: head.weight, head.bias")


def test_what_a_layer_refuses_is_an_error():
    """As positions that differ between layers that share them."""
    cfg = dict(type="DCLS")
    theirs = detector(ConvNeXt(ARCH, cfg, share_positions=False)).state_dict()
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* without shared"):
        load(detector(ConvNeXt(ARCH, cfg)), theirs)


@pytest.mark.parametrize("conv_cfg", [None, dict(type="DCLS"), dict(type="CoC")])
def test_what_layers_rename_or_take_over_is_counted(said, conv_cfg):
    """A plain file of ConvNeXt's authors, and plain kernels for learnable layers."""
    plain = detector(ConvNeXt(ARCH, out_indices=(3,))).state_dict()
    theirs = {".".join(AUTHORS.get(p, p) for p in k.split(".")): v for k, v in plain.items()}
    theirs = {k.replace("norm3.", "norm."): v for k, v in theirs.items()}
    ours = detector(ConvNeXt(ARCH, conv_cfg, out_indices=(3,)))
    load(ours, theirs)
    total = len(ours.backbone.state_dict())
    (line,) = lines(said)
    assert line == f"tensors set by the checkpoint: backbone {total} of {total}, head 2 of 2"


@pytest.mark.parametrize(
    "state_dict",
    [
        # torchvision's names below the right prefix: mmengine renames nothing.
        {"backbone.features.0.0.weight": torch.zeros(32, 3, 3, 3)},
        {"head.weight": torch.zeros(4, 3, 1, 1), "head.bias": torch.zeros(4)},
        {},
    ],
    ids=["torchvision", "head", "empty"],
)
def test_a_file_without_the_backbone_is_refused(state_dict):
    with pytest.raises(CheckpointError, match=r"no tensor of the model's backbone: .*init_cfg"):
        load(detector(MobileNetV2()), state_dict)


def test_a_backbone_of_other_shapes_is_refused():
    with pytest.raises(CheckpointError, match="no tensor of the model's backbone"):
        load(detector(ResNet(18, base_channels=32)), detector(ResNet(18)).state_dict())


def test_a_run_goes_on_without_the_optimizer_only_if_it_saved_none():
    model = detector(ResNet(18))
    saved = dict(meta=dict(iter=1), state_dict=model.state_dict())
    cfg = Config(dict(resume=True, load_from="a.pth"))
    run = SimpleNamespace(model=model, cfg=cfg)
    with pytest.raises(CheckpointError, match=r"a\.pth .* with save_optimizer=False; to"):
        LoadReportHook().after_load_checkpoint(run, dict(saved))
    cfg.default_hooks = dict(checkpoint=dict(save_optimizer=False))
    LoadReportHook().after_load_checkpoint(run, dict(saved))
    with pytest.raises(CheckpointError, match="without the state of a training"):
        LoadReportHook().after_load_checkpoint(run, dict(state_dict={}))
