"""Whole detectors and segmentors: a plain network's checkpoint in a swapped one."""

from ast import literal_eval

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from torch import nn

from mmlearnconv.catalog import operator_names, operator_of
from mmlearnconv.layers import LearnableConv
from mmlearnconv.surgery import swap_convs
from tests.conftest import LONG

pytestmark = pytest.mark.slow

NETWORKS = {
    "mask_rcnn": ("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco"),
    "retinanet": ("mmdet", "retinanet/retinanet_r50_fpn_1x_coco"),
    "fcn": ("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024"),
    "upernet": ("mmseg", "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024"),
}
SIZE = 96


def tolerance(operator):
    """Relative error of a feature map: rounding, or what an error of 5e-5 per layer adds up to."""
    return 1e-4 if operator_of(operator).takeover_error < 1e-6 else 1e-2


def load_config(name):
    scope, path = NETWORKS[name]
    init_default_scope(scope)
    cfg = Config.fromfile(get_installed_path(scope) + f"/.mim/configs/{path}.py")
    model = cfg.model
    model.backbone.init_cfg = None
    if scope == "mmseg":
        model.pretrained = None
        model.data_preprocessor.size = (SIZE, SIZE)
        model.test_cfg = dict(mode="whole")
        for head in (model.decode_head, model.auxiliary_head):
            head.channels = 32
    else:
        # With random weights all scores are low.
        model.test_cfg.get("rcnn", model.test_cfg).score_thr = 0.0
    return scope, model


def randomise_statistics(model):
    """Give a network statistics and scores that an untrained one does not have."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.0),
                (module.bias.data, -0.2, 0.2),
            ):
                value.uniform_(low, high, generator=generator)
    for name, parameter in model.named_parameters():
        # Scores and boxes that differ, else rounding decides which of them stay.
        if name.endswith(("_cls.weight", "rpn_reg.weight")):
            parameter.data.normal_(std=0.3, generator=generator)


def outputs(scope, model):
    """Feature maps and raw outputs, and for detectors the boxes and scores."""
    torch.manual_seed(0)
    if scope == "mmdet":
        data = demo_mm_inputs(1, [[3, SIZE, SIZE]])
    else:
        data = dict(inputs=[torch.randint(0, 255, (3, SIZE, SIZE), dtype=torch.uint8)])
    data = model.data_preprocessor(data, False)
    with torch.no_grad():
        features = list(model.extract_feat(data["inputs"]))
        if scope == "mmseg":
            return features, [model(data["inputs"], mode="tensor")], None
        head = getattr(model, "rpn_head", None) or model.bbox_head
        raw = [t for level in head(tuple(features)) for t in level]
        (sample,) = model(**data, mode="predict")
    return features, raw, sample.pred_instances


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name,
            marks=[
                pytest.mark.xdist_group(name),
                *([] if name in ("mask_rcnn", "upernet") else [LONG]),
            ],
        )
        for name in NETWORKS
    ],
)
def plain(request):
    torch.manual_seed(0)
    scope, cfg = load_config(request.param)
    model = revert_sync_batchnorm(MODELS.build(cfg))
    model.init_weights()
    randomise_statistics(model)
    model.eval()
    return request.param, model.state_dict(), outputs(scope, model)


@pytest.mark.parametrize("operator", operator_names(baselines=False))
def test_a_plain_checkpoint_in_a_swapped_network_gives_the_same(plain, operator):
    name, state, expected = plain
    scope, cfg = load_config(name)
    cfg.target, cfg.type = cfg.type, "SwapConv"
    cfg.swaps = [dict(pattern="*", kernel_size=3, conv=dict(type=operator))]
    model = revert_sync_batchnorm(MODELS.build(cfg))
    model.eval()
    learnable = [m for m in model.modules() if isinstance(m, LearnableConv)]
    assert len(learnable) >= 17
    incompatible = model.load_state_dict(state, strict=True)
    assert not incompatible.missing_keys
    assert not incompatible.unexpected_keys
    features, raw, predictions = outputs(scope, model)
    for ours, plain_ones in ((features, expected[0]), (raw, expected[1])):
        for a, b in zip(ours, plain_ones, strict=True):
            assert (a - b).norm() / b.norm() < tolerance(operator)
    if predictions is not None and tolerance(operator) < 1e-3:
        assert len(predictions) > 0
        for key in ("bboxes", "scores"):
            torch.testing.assert_close(predictions[key], expected[2][key], rtol=1e-3, atol=1e-3)
        assert torch.equal(predictions.labels, expected[2].labels)


@pytest.mark.parametrize("operator", ["DK", "DRConv"])
@pytest.mark.parametrize(
    ("scope", "backbone", "levels"),
    [
        ("mmdet", dict(type="EfficientNet", arch="b0", out_indices=(2, 3, 4, 5)), 4),
        ("mmseg", dict(type="MobileNetV3", arch="small", out_indices=(0, 1, 12)), 3),
    ],
    ids=["EfficientNet", "MobileNetV3"],
)
def test_backbones_whose_padding_adapts(scope, backbone, levels, operator):
    """Strided convolutions, whose padding depends on the image, are refused; the others exact."""
    init_default_scope(scope)
    model = MODELS.build(backbone)
    model.eval()
    randomise_statistics(model)
    image = torch.randn(1, 3, 90, 102)
    with torch.no_grad():
        expected = model(image)
    rule = dict(pattern="*", depthwise=True, conv=dict(type=operator))
    with pytest.raises(TypeError, match="its padding depends on the image's size") as refused:
        swap_convs(model, [rule])
    exclude = literal_eval(str(refused.value).split("exclude=")[1].removesuffix(" leaves alone"))
    swap_convs(model, [rule | dict(exclude=exclude)])
    assert sum(isinstance(m, LearnableConv) for m in model.modules()) >= 5
    with torch.no_grad():
        found = model(image)
    assert len(found) == levels
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
