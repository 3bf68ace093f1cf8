"""The demonstration on images, folders and videos, with models of random weights."""

import json
import runpy

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.conftest import ROOT, config_path

DETECTOR = config_path("quickstart_mask_rcnn_dcls")
SEGMENTOR = config_path("upernet_shapes")
KINDS = ("ellipse", "rectangle", "triangle", "star", "cross")


def checkpoint_of(config, path, classes):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model)
    model.init_weights()
    meta = dict(
        dataset_meta=dict(classes=classes, palette=[(i, 0, 0) for i in range(len(classes))])
    )
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return checkpoint_of(DETECTOR, tmp_path_factory.mktemp("det") / "random.pth", KINDS)


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_a_folder_with_folders_and_a_broken_file(tmp_path, detector, run_tool):
    images = tmp_path / "my images"
    names = ["a.png", "a.jpg", "sub/ü.png"]
    for name in names:
        write_image(images / name)
    (images / "broken.jpg").write_text("<html>")
    out = tmp_path / "out"
    said = run_tool("demo", images, DETECTOR, detector, "--out", out, "--score", 0)
    # What could not be read is named at the end; all else is there.
    assert said == f"error: {images}/broken.jpg: could not be read as an image"
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {*names, *(f"{name}.json" for name in names)}
    prediction = json.loads((out / "sub/ü.png.json").read_text())
    assert {"bboxes", "labels", "scores"} <= prediction.keys()
    assert len(prediction["bboxes"]) == len(prediction["scores"]) > 0
    drawn = cv2.imread(str(out / "a.png")).astype(int)
    assert np.abs(drawn - cv2.imread(str(images / "a.png"))).max() > 50


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_colours_and_other_formats(tmp_path, detector, run_tool):
    images = tmp_path / "images"
    images.mkdir()
    red = np.full((48, 64, 3), (10, 20, 200), np.uint8)
    cv2.imwrite(str(images / "a.tiff"), red)
    (images / "notes.txt").write_text("x")
    out = tmp_path / "out"
    # Nothing is found of that score, so nothing is drawn.
    said = run_tool("demo", images, DETECTOR, detector, "--out", out, "--score", 1.1)
    assert "1 of 1 images" in said
    assert "INPUT: 1 files are no images to this model: notes.txt" in said
    assert (cv2.imread(str(out / "a.tiff")) == red).all()


def test_predictions_are_written_whole(tmp_path):
    """More classes than 8 bits hold, and the segments of panoptic models."""
    tool = runpy.run_path(str(ROOT / "tools" / "demo.py"))
    labels = np.array([[0, 44], [300, 511]])
    tool["save_prediction"](labels, tmp_path / "a.png")
    found = cv2.imread(str(tmp_path / "a.png.labels.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, labels)
    segments = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    tool["save_prediction"](dict(panoptic_seg=segments, labels=[7]), tmp_path / "b.png")
    assert json.loads((tmp_path / "b.png.json").read_text()) == dict(labels=[7])
    found = cv2.imread(str(tmp_path / "b.png.panoptic.png"))[..., ::-1]
    assert np.array_equal(found, segments)


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_a_folder_without_images(tmp_path, detector, run_tool):
    said = run_tool("demo", ROOT / "configs", DETECTOR, detector, "--out", tmp_path / "out")
    assert f"INPUT {ROOT}/configs: no file that is read as an image; found" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_a_video(tmp_path, detector, run_tool):
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for number in range(3):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    out = tmp_path / "out"
    assert "3 frames in" in run_tool("demo", video, DETECTOR, detector, "--out", out)
    drawn = mmcv.VideoReader(str(out / "clip.mp4"))
    assert (len(drawn), drawn.width, drawn.height, drawn.fps) == (3, 64, 48, 5)
    # Dark stays dark and light light: frames in their order, colours not exchanged.
    assert drawn[0].mean() < 40 < 90 < drawn[2].mean()
    assert len(json.loads((out / "clip.mp4.json").read_text())) == 3


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_a_segmentor_writes_labels(tmp_path, run_tool):
    checkpoint = checkpoint_of(SEGMENTOR, tmp_path / "random.pth", ("background", *KINDS))
    write_image(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    said = run_tool("demo", tmp_path / "in" / "a.png", SEGMENTOR, checkpoint, "--out", out)
    assert "1 of 1 images" in said
    labels = cv2.imread(str(out / "a.png.labels.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (48, 64)
    assert labels.max() < 6
    assert (out / "a.png").is_file()


@pytest.mark.parametrize(
    ("source", "checkpoint", "message"),
    [
        ("none.png", "setup.py", "INPUT none.png: does not exist"),
        ("none.mp4", "setup.py", "INPUT none.mp4: does not exist"),
        ("docs/images/dcls.png", "none.pth", "checkpoint none.pth does not exist"),
        ("docs/images/dcls.png", "setup.py", "setup.py"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    source, checkpoint, message, tmp_path, run_tool
):
    out = tmp_path / "out"
    said = run_tool("demo", source, DETECTOR, checkpoint, "--out", out)
    assert said.startswith("error: ")
    assert message in said
    assert not out.exists()


def test_other_models_are_refused(tmp_path, run_tool):
    checkpoint = tmp_path / "some.pth"
    torch.save(dict(state_dict={}), checkpoint)
    config = tmp_path / "other.py"
    config.write_text("default_scope = 'mmengine'\nmodel = dict(type='ToyModel')\n")
    image = "docs/images/dcls.png"
    said = run_tool("demo", image, config, checkpoint, "--out", tmp_path / "out")
    assert said.startswith("error: CONFIG: default_scope is 'mmengine'; what is drawn are")
    assert not (tmp_path / "out").exists()


def test_the_input_s_own_folder_is_not_written_to(tmp_path, run_tool):
    write_image(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    said = run_tool("demo", tmp_path, DETECTOR, "setup.py", "--out", tmp_path)
    assert said == f"error: --out {tmp_path}: is the folder of INPUT; name another one"
    assert (tmp_path / "a.png").read_bytes() == before
