"""Configs and options with mistakes: the nearest name, the place, and what to do instead."""

import inspect
import re

import pytest
import torch

from mmlearnconv.catalog import CATALOG
from mmlearnconv.layers.options import CheckedOptions
from tests.conftest import ROOT

QUICKSTART = ROOT / "configs" / "quickstart_mask_rcnn_dcls.py"


@pytest.mark.parametrize("operator", CATALOG, ids=lambda operator: operator.name)
def test_a_misspelt_option_of_a_layer(operator):
    own = [
        p.name
        for p in inspect.signature(operator.layer).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    for name in [*own, "padding_mode"]:
        wrong = name.replace("_", "") if "_" in name else name + "s"
        if wrong in own:
            continue
        with pytest.raises(TypeError, match=rf"'{wrong}' is unknown; did you mean '{name}'\?"):
            operator.layer(4, 4, 3, **{wrong: 1})


@pytest.mark.parametrize("operator", CATALOG, ids=lambda operator: operator.name)
def test_a_misspelt_option_of_a_type_with_a_1x1_kernel(operator):
    # Where the type builds PyTorch's convolution, too.
    name = next(
        p.name
        for p in inspect.signature(operator.layer).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in operator.fixed
    )
    with pytest.raises(TypeError, match=rf"'{name}x' is unknown; did you mean '{name}'\?"):
        operator.build(4, 4, 1, **{name + "x": 1})


def test_subclasses_with_options_of_their_own_are_left_to_themselves():
    class Own(CheckedOptions):
        def __init__(self, **options):
            self.options = options

    assert Own(anything=1).options == dict(anything=1)


def edited(config, tmp_path, text):
    path = tmp_path / "edited.py"
    base = "" if "_base_" in text else f"_base_ = {str(config)!r}\n"
    path.write_text(f"{base}{text}\n")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model = dict(backbone=dict(conv_cfg=dict(type='DCSL')))",
            r"model\.backbone\.conv_cfg\.type: 'DCSL' is unknown; did you mean 'DCLS'\?",
        ),
        (
            "model = dict(neck=dict(conv_cfg=dict(type='DRconv')))",
            r"model\.neck\.conv_cfg\.type: 'DRconv' is unknown; did you mean 'DRConv'\?",
        ),
        (
            "model = dict(backbone=dict(conv_cfg=dict(type='Convolution9')))",
            r"model\.backbone\.conv_cfg\.type: 'Convolution9' is unknown; .*allowed are",
        ),
        (
            "model = dict(type='SwapConv', target='MaskRCNN',\n"
            "    swaps=[dict(pattern='*', conv=dict(type='DKKE'))])",
            r"model\.swaps\.0\.conv\.type: 'DKKE' is unknown; did you mean 'DKE'\?",
        ),
        ("model = dict(", r"config .*edited\.py: SyntaxError: "),
        ("_base_ = './nowhere.py'", r"config .*edited\.py: .*nowhere\.py"),
        ("import nosuchmodule", r"config .*edited\.py: .*nosuchmodule"),
        ("x = undefined", r"config .*edited\.py: NameError: .*undefined"),
        ("custom_imports = dict(imports=['nosuchmodule'])", r"config .*edited\.py: .*nosuchmodule"),
        ("default_scope = 'mmdat'", r"default_scope: 'mmdat' is unknown; did you mean 'mmdet'\?"),
    ],
)
@pytest.mark.parametrize("tool", ["train", "get_flops"])
def test_a_mistake_in_a_config(tool, text, message, config, stops, tmp_path):
    said = stops(tool, edited(config, tmp_path, text))
    assert said.startswith("error: ")
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model = dict(backbone=dict(conv_cfg=dict(kernel_cout=3)))",
            r"option 'kernel_cout' is unknown; did you mean 'kernel_count'\?",
        ),
        (
            # Its first convolutions are 1x1.
            "model = dict(neck=dict(conv_cfg=dict(type='DCLS', kernel_cout=3)))",
            r"option 'kernel_cout' is unknown; did you mean 'kernel_count'\?",
        ),
        (
            "model = dict(backbone=dict(conv_cfg=dict(kernel_count='three')))",
            r"kernel_count: 'three'",
        ),
        (
            "model = dict(backbone=dict(conv_cfg=dict(interpolation='cubic')))",
            r"interpolation: 'cubic'",
        ),
        (
            "model = dict(type='SwapConv', target='MaskRCNN', backbone=dict(conv_cfg=None),\n"
            "    swaps=[dict(patern='*', conv=dict(type='DKE'))])",
            r"swaps\[0\]: 'patern' is unknown; did you mean 'pattern'\?",
        ),
        (
            "model = dict(type='SwapConv', target='MaskRCNN', backbone=dict(conv_cfg=None),\n"
            "    swaps=[dict(pattern='backbne.*', conv=dict(type='DKE'))])",
            r"pattern='backbne\.\*' -> DKE matches nothing: no module has such a name",
        ),
        (
            "model = dict(type='SwapConv', target='MaskRCNN', backbone=dict(conv_cfg=None),\n"
            "    swaps=[dict(pattern='*.upsample', conv=dict(type='DKE'))])",
            r"not plain convolutions: ConvTranspose2d",
        ),
        (
            "model = dict(backbone=dict(_delete_=True, type='SwinTransformer', embed_dims=8,\n"
            "    depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), conv_cfg=dict(type='DK')))",
            r"It takes no conv_cfg: remove it, and replace its convolutions by a swap",
        ),
        (
            "model = dict(roi_head=dict(bbox_head=dict(conv_cfg=dict(type='DK'))))",
            r"model\.roi_head\.bbox_head\.conv_cfg: Shared2FCBBoxHead builds no layer of it.*"
            r"pattern='roi_head\.bbox_head\.\*'",
        ),
    ],
)
def test_a_mistake_that_shows_when_the_model_is_built(text, message, config, stops, tmp_path):
    said = stops("train", edited(config, tmp_path, text), "--work-dir", "out")
    assert re.search(message, said), said
    assert not list((tmp_path / "out").glob("*.pth"))


@pytest.mark.parametrize("tool", ["train", "get_flops", "fold"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("amp", "error: --cfg-options amp: must be key=value"),
        ("model.neck.in_channels=[8,16", r"error: --cfg-options: Imbalanced brackets.*\[8,16"),
        ("randomnes.seed=0", "the config has no randomnes; did you mean randomness?"),
        ("optim_wraper.clip_grad.max_norm=1", "did you mean optim_wrapper?"),
        # mmengine would take the space out.
        ("model.backbone.conv_cfg.type=my conv", r"'my conv' is unknown"),
    ],
)
def test_a_mistake_in_an_option_of_the_config(tool, option, message, config, stops, tmp_path):
    more = dict(train=("--work-dir", "out"), fold=("weights.pth", "out")).get(tool, ())
    said = stops(tool, config, *more, "--cfg-options", option)
    assert re.search(message.replace("?", r"\?"), said), said
    assert not (tmp_path / "out").exists()


def test_a_component_that_ignores_conv_cfg_is_named_before_a_test(config, weights, stops, tmp_path):
    text = "model = dict(roi_head=dict(bbox_head=dict(conv_cfg=dict(type='DK'))))"
    said = stops("test", edited(config, tmp_path, text), weights, "--work-dir", "out")
    assert "model.roi_head.bbox_head.conv_cfg: Shared2FCBBoxHead builds no layer of it" in said


@pytest.mark.parametrize(
    ("conv", "layer"),
    [
        ("dict(type='DCLS', kernel_count=3, interpolation='gauss')", "DCLSConv2d"),
        ("dict(_delete_=True, type='DK', mode='local')", "DeformableKernelConv2d"),
        ("dict(_delete_=True, type='DRConv')", "DRConv2d"),
    ],
)
def test_training_that_diverges_stops(conv, layer, config, stops, tmp_path):
    text = (
        f"model = dict(backbone=dict(conv_cfg={conv}))\n"
        # The second step is so large that the third has no finite loss.
        "param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[1], gamma=1e30)]\n"
        "train_cfg = dict(max_iters=4, val_interval=4)"
    )
    said = stops("train", edited(config, tmp_path, text), "--work-dir", "out")
    named = rf"backbone\S+ of {layer} \(\d+ of \d+ values\)"
    assert re.match(f"error: iteration 3 made NaN or infinite: {named}.*clip_grad", said), said
    for number in (1, 2):
        path = tmp_path / "out" / f"iter_{number}.pth"
        state = torch.load(path, weights_only=False)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())
    assert not (tmp_path / "out" / "iter_3.pth").exists()


@pytest.mark.parametrize("content", ["", "<html></html>", "model: dict", "\x00\xff"])
def test_a_file_that_is_no_config(content, stops, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(content)
    assert stops("train", path).startswith(f"error: config {path}")


@pytest.mark.parametrize("tool", ["train", "get_flops", "compare", "visualize", "receptive_field"])
@pytest.mark.parametrize("name", ["nowhere.py", ".", "picture.jpg"])
def test_a_config_that_is_none(tool, name, stops, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    more = ("--out", "out") if tool in ("visualize", "receptive_field") else ()
    said = stops(tool, name, *more)
    assert said.startswith((f"error: config {name} ", f"error: config {name}:"))
    assert not (tmp_path / "out" / "index.html").exists()
