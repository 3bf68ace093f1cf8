"""Tools with models whose images have other than three channels, or other than 8 bits."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.conftest import config_path, mostly_long

CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=["mmlearnconv", "tests.datasets.test_inputs"])
_load = [{loader}, dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
_part = dict(
    _delete_=True, type="BaseSegDataset", img_suffix={suffix!r}, pipeline=_load, data_root={root!r},
    metainfo=dict(classes=list("abcdef"), palette=[[i, i, i] for i in range(6)]),
    data_prefix=dict(img_path="images", seg_map_path="labels"))
_one = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=_part, **_one)
val_dataloader = dict(dataset=dict(_part, test_mode=True), num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
test_pipeline = _load
model = dict(
    data_preprocessor=dict(mean=[100.0], std=[60.0], bgr_to_rgb=False, size=(64, 64)),
    backbone=dict(in_channels={channels}, base_channels=8),
    decode_head=dict(in_channels=[8, 16, 32, 64], conv_cfg=dict(type="CoC")),
    auxiliary_head=dict(in_channels=32))
train_cfg = dict(max_iters=2, val_interval=2)
custom_hooks = [
    dict(type="LearnableConvPictureHook", image={image!r}, by_epoch=False, interval=2, size=64)]
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
"""
ONE = "dict(type='LoadImageFromFile', color_type='grayscale')"
ALL = "dict(type='LoadImageFromFile', color_type='unchanged')"
OWN = "dict(type='mmengine.LoadArray')"
# Channels, dtype, the loader, and the files' suffix.
CASES = {
    "gray": (1, np.uint8, ONE, ".png"),
    "16 bits": (1, np.uint16, ALL, ".png"),
    "two": (2, np.float32, OWN, ".npy"),
    "four": (4, np.uint8, ALL, ".png"),
    "twelve": (12, np.uint16, OWN, ".npy"),
}


@pytest.fixture(params=mostly_long(CASES, "twelve"))
def model(request, tmp_path):
    """Config, weights and an image."""
    channels, dtype, loader, suffix = CASES[request.param]
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, channels)).astype(dtype)
        path = tmp_path / "images" / f"{number}{suffix}"
        if suffix == ".npy":
            np.save(path, noise)
        else:
            cv2.imwrite(str(path), noise)
        cv2.imwrite(str(tmp_path / "labels" / f"{number}.png"), np.zeros((64, 64), np.uint8))
    config = tmp_path / "own.py"
    options = dict(base=str(config_path("upernet_shapes")), root=str(tmp_path), image=str(path))
    config.write_text(CONFIG.format(loader=loader, suffix=suffix, channels=channels, **options))
    init_default_scope("mmseg")
    weights = tmp_path / "weights.pth"
    state = MODELS.build(Config.fromfile(config).model).state_dict()
    torch.save(dict(meta={}, state_dict=state), weights)
    return config, weights, path


@pytest.mark.slow
def test_every_tool_takes_them(model, tmp_path, run_tool):
    config, weights, image = model
    size = "--size", 64
    out = tmp_path / "out"
    said = run_tool("get_flops", config, "--shape", 64, 64)
    assert "multiply-adds" in said, said
    said = run_tool("fold", config, weights, out / "folded")
    assert "largest relative difference on noise" in said, said
    said = run_tool("fold", config, weights, out / "folded", "--image", image)
    assert "written" in said, said
    said = run_tool("compare", config, "--conv", "CoC", "--size", 64, 64)
    assert "| CoC" in said, said
    said = run_tool("visualize", config, weights, "--image", image, "--out", out, *size)
    assert "pictures" in said, said
    options = ("--checkpoint", weights, "--num-images", 1, "--out", out, *size)
    for images in ((), ("--images", image)):
        said = run_tool("receptive_field", config, *options, *images)
        assert "| own |" in said, said
    # Of the folder, the label maps are images to some of these models.
    said = run_tool("demo", tmp_path / "images", config, weights, "--out", out / "demo")
    assert "2 of 2 images" in said, said
    assert len(list((out / "demo").iterdir())) == 4


@pytest.mark.slow
def test_the_hook_draws_them(model, tmp_path, run_tool):
    config, *_ = model
    said = run_tool("train", config, "--work-dir", tmp_path / "out")
    assert not said.startswith("error"), said
    assert list((tmp_path / "out").rglob("vis_image/coc_sheets_2.png"))
