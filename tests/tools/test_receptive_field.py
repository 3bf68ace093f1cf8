"""The command line for receptive fields, on small models whose fields are known."""

import json
import re
import shutil

import pytest
import torch
from torch import nn

from mmlearnconv import cli


def box(kernel):
    conv = nn.Conv2d(3, 1, kernel, padding=kernel // 2, bias=False)
    nn.init.ones_(conv.weight)
    return nn.Sequential(conv, nn.Identity())


def three():
    return box(3)


def nine():
    return box(9)


def flat():
    return nn.Flatten()


MODELS = [f"tests.tools.test_receptive_field:{name}" for name in ("three", "nine")]


def test_two_models_side_by_side_and_an_interrupted_run_goes_on(tmp_path, run_tool):
    arguments = [*MODELS, "--num-images", 12, "--size", 32, "--out", tmp_path, "--layer", "0"]
    said = run_tool("receptive_field", *arguments)
    # 0.99 of a box of 9 x 9 is all of it; 0.2 and 0.3 of one need 5 x 5, 0.5 needs 7 x 7.
    assert "| three | 3 (0.9 %) | 3 (0.9 %) | 3 (0.9 %) | 3 (0.9 %) |" in said
    assert "| nine | 5 (2.4 %) | 5 (2.4 %) | 7 (4.8 %) | 9 (7.9 %) |" in said
    found = json.loads((tmp_path / "receptive_field.json").read_text())
    assert found["nine"][2] == dict(share=0.5, side=7, ratio=49 / 32**2)
    assert (tmp_path / "receptive_field.png").stat().st_size > 1000
    # As if it had been stopped after ten images, the last of which saw one pixel alone.
    state_file = tmp_path / "nine.state.pt"
    state = torch.load(state_file, weights_only=True)
    assert state["done"] == 12
    state["done"] = 10
    state["total"] = torch.zeros(32, 32, dtype=torch.double)
    state["total"][16, 16] = 1e12
    torch.save(state, state_file)
    assert "| nine | 3 " in run_tool("receptive_field", *arguments)
    # A damaged one is named.
    whole = state_file.read_bytes()
    for content in (b"", b"<html></html>", whole[:-100]):
        state_file.write_bytes(content)
        said = run_tool("receptive_field", *arguments)
        assert re.match(rf"error: checkpoint {state_file} .*damaged", said), said
        assert state_file.read_bytes() == content
    state_file.write_bytes(whole)
    # Other arguments do not go on with it.
    arguments[3] = 11
    assert "| nine | 5 " in run_tool("receptive_field", *arguments)


def test_a_config_of_an_installed_toolbox(tmp_path, run_tool):
    config = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
    said = run_tool("receptive_field", config, "--num-images", 1, "--size", 64, "--out", tmp_path)
    assert "| fast_scnn_8xb4-160k_cityscapes-512x1024 | " in said


@pytest.mark.slow
def test_a_detector_at_the_centres_of_objects(tmp_path, run_tool, tiny_coco):
    images = tmp_path / "images with spaces"
    images.mkdir()
    for path in sorted((tiny_coco / "val2017").iterdir())[:2]:
        shutil.copy(path, images)
    said = run_tool(
        "receptive_field",
        *("configs/quickstart_mask_rcnn_dcls.py", "--images", images, "--size", 64),
        *("--ann-file", tiny_coco / "annotations/instances_val2017.json", "--out", tmp_path),
        *("--layer", "neck.fpn_convs.0.conv"),
    )
    assert "| quickstart_mask_rcnn_dcls | " in said
    points = json.loads((tiny_coco / "annotations/instances_val2017.json").read_text())
    names = {path.name for path in images.iterdir()}
    known = {image["id"] for image in points["images"] if image["file_name"] in names}
    count = sum(a["image_id"] in known for a in points["annotations"])
    assert f": {count} points" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "stem"], "--layer stem: is no module of tests.tools"),
        (["--images", "nowhere"], "--images nowhere: does not exist"),
        (["--ann-file", "a.json"], "--ann-file needs --images"),
        (["--num-images", 0], "--num-images 0: must be 1 or more"),
        (["--checkpoint", "a", "b"], "--checkpoint: 2 for 1 models; must be as many"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(arguments, message, tmp_path, run_tool):
    out = tmp_path / "out"
    said = run_tool("receptive_field", MODELS[0], "--out", out, *arguments)
    assert said.startswith(f"error: {message}")
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.tools.nowhere:three", "must be module:function; No module named"),
        ("tests.tools.test_receptive_field:four", "has no attribute 'four'"),
        ("builtins:dict", "returns dict; must return an nn.Module"),
    ],
)
def test_a_function_that_builds_no_model_is_named(name, message):
    with pytest.raises(ValueError, match=message) as error:
        cli.build_model(name)
    assert name in str(error.value)
