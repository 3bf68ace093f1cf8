"""Weights of other libraries in our backbones, and what is said of those that do not fit."""

import re

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from safetensors.torch import save_file

from mmlearnconv.engine import CheckedPretrainedInit, CheckpointError, enforce_weights_only
from mmlearnconv.models import ConvNeXt
from tests import libraries
from tests.processes import call

ARCH = dict(depths=(1, 1, 2, 1), channels=(8, 16, 24, 32))


def randomise(model):
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.2 * torch.rand_like(value) + 0.5 * ("var" in name))
    # mmdet's MobileNetV2 returns nothing.
    model.eval()
    return model


def output_of(model, module, image):
    found = []
    hook = module.register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        model(image)
    hook.remove()
    return found[0]


def timm_convnext():
    import timm

    model = timm.create_model("convnext_tiny", depths=ARCH["depths"], dims=ARCH["channels"])
    return model, model.stages[-1]


def torchvision_convnext():
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.convnext import ConvNeXt as Theirs

    widths = [*ARCH["channels"], None]
    stages = [CNBlockConfig(widths[i], widths[i + 1], n) for i, n in enumerate(ARCH["depths"])]
    model = Theirs(stages)
    return model, model.features[7]


def torchvision_mobilenet():
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2()
    return model, model.features[18]


def timm_mobilenet():
    import timm

    model = timm.create_model("mobilenetv2_100")
    return model, model.bn2


def timm_resnet():
    import timm

    model = timm.create_model("resnet18")
    return model, model.layer4


def torchvision_resnet():
    from torchvision.models import resnet18

    model = resnet18()
    return model, model.layer4


def hugging_face_convnext():
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=ARCH["channels"], depths=ARCH["depths"])
    model = ConvNextModel(config)
    return model, model.encoder.stages[-1]


def hugging_face_resnet():
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    model = ResNetForImageClassification(config)
    return model, model.resnet.encoder.stages[-1]


def mmpretrain_convnext():
    from mmpretrain.models import ConvNeXt as Theirs

    model = Theirs(ARCH, out_indices=(3,), gap_before_final_norm=False)
    return model, model.stages[-1]


def mmpretrain_mobilenet():
    from mmpretrain.models import MobileNetV2 as Theirs

    model = Theirs(out_indices=(7,))
    return model, model.conv2


def mmpretrain_resnet():
    from mmpretrain.models import ResNet as Theirs

    model = Theirs(18)
    return model, model.layer4


def ours_of(theirs):
    """The backbone of the same architecture, and its last module."""
    if "convnext" in theirs.__name__:
        model = ConvNeXt(ARCH)
        return model, model.stages[-1]
    if "mobilenet" in theirs.__name__:
        model = MobileNetV2(out_indices=(7,))
        return model, model.conv2
    model = ResNet(18)
    return model, model.layer4


def assert_same_features(theirs, folder, saved):
    """To be run in a process that may import what it likes."""
    libraries.find()
    enforce_weights_only()
    torch.manual_seed(0)
    model, module = theirs()
    state_dict = randomise(model).state_dict()
    path = f"{folder}/theirs.pth"
    if saved == "safetensors":
        path = f"{folder}/theirs.safetensors"
        save_file({name: value.contiguous() for name, value in state_dict.items()}, path)
    elif saved == "wrapped":
        torch.save({f"module.backbone.{name}": v for name, v in state_dict.items()}, path)
    else:
        torch.save(state_dict, path)
    ours, our_module = ours_of(theirs)
    randomise(ours)
    CheckedPretrainedInit(path)(ours)
    image = torch.rand(2, 3, 64, 64)
    expected = output_of(model, module, image)
    assert expected.std() > 0
    torch.testing.assert_close(output_of(ours, our_module, image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "saved"),
    [
        (timm_convnext, "plain"),
        (timm_convnext, "wrapped"),
        (timm_convnext, "safetensors"),
        (torchvision_convnext, "plain"),
        (torchvision_mobilenet, "plain"),
        (timm_mobilenet, "safetensors"),
        (timm_resnet, "plain"),
        (torchvision_resnet, "wrapped"),
        (hugging_face_convnext, "safetensors"),
        (hugging_face_resnet, "safetensors"),
        (mmpretrain_convnext, "wrapped"),
        (mmpretrain_mobilenet, "wrapped"),
        (mmpretrain_resnet, "wrapped"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_files_of_other_libraries_give_the_same_features(theirs, saved, tmp_path):
    libraries.need()
    call(assert_same_features, theirs, str(tmp_path), saved)


def test_what_does_not_fit_is_one_sentence(tmp_path, said):
    path = str(tmp_path / "resnet.pth")
    saved = ResNet(18).state_dict()
    saved["layer2.0.conv1.heavy"] = saved.pop("layer2.0.conv1.weight")
    saved["layer3.0.conv1.weight"] = saved["layer3.0.conv1.weight"][:, :2]
    torch.save(saved, path)
    CheckedPretrainedInit(path)(ResNet(18))
    (line,) = (line for line in said if line.startswith("ResNet"))
    assert line == (
        f"ResNet: 118 of 120 tensors from {path}, OpenMMLab's names; not in the file: "
        "layer2.0.conv1.weight; of another shape: layer3.0.conv1.weight; not used: "
        "layer2.0.conv1.heavy"
    )


def test_a_file_of_another_architecture_is_refused(tmp_path):
    path = str(tmp_path / "other.pth")
    torch.save({"features.0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(
        CheckpointError, match=re.escape("like features.0.weight, is one of ResNet")
    ):
        CheckedPretrainedInit(path, prefix="backbone.")(ResNet(18))


def test_a_prefix_that_the_file_lacks(tmp_path, said):
    path = str(tmp_path / "bare.pth")
    source = ResNet(18)
    torch.save(source.state_dict(), path)
    model = ResNet(18)
    CheckedPretrainedInit(path, prefix="backbone.")(model)
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert any(line.startswith("ResNet: 120 of 120 tensors") for line in said)


def test_positions_that_differ_cannot_be_shared(tmp_path):
    path = str(tmp_path / "dcls.pth")
    cfg = dict(type="DCLS")
    torch.save(ConvNeXt(ARCH, cfg, share_positions=False).state_dict(), path)
    with pytest.raises(CheckpointError, match="without shared positions"):
        CheckedPretrainedInit(path)(ConvNeXt(ARCH, cfg))


def test_a_file_of_other_shapes_is_refused(tmp_path):
    file = tmp_path / "wider.pth"
    torch.save(dict(state_dict=ResNet(18).state_dict()), file)
    narrow = ResNet(18, base_channels=32)
    with pytest.raises(CheckpointError, match=r"does not fit ResNet: .*of another shape: conv1"):
        CheckedPretrainedInit(checkpoint=str(file))(narrow)
