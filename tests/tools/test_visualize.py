"""Pictures of small models: that they are drawn, and that the page says what was computed."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmlearnconv.analysis import SamplingPoints
from mmlearnconv.catalog import CATALOG
from mmlearnconv.engine import LearnableConvStatsHook
from mmlearnconv.layers import (
    CoCConv2d,
    DCLSConv2d,
    DeformableKernelConv2d,
    DKEConv2d,
    DRConv2d,
)
from mmlearnconv.visualization import draw_layers, draw_log, draw_positions, layers_to_show
from mmlearnconv.visualization.dk import offsets_at

HERE = "tests.tools.test_visualize"
PICTURES = {
    "dcls": {"dcls_positions", "dcls_kernels"},
    "dk": {"dk_offsets", "dk_kernels"},
    "dke": {"dke_taps", "dke_shapes", "dke_gradient"},
    "coc": {"coc_sheets", "coc_super_kernels"},
    "drconv": {"drconv_masks", "drconv_use"},
}


def network(kind, **options):
    first = nn.Conv2d(3, 4, 3, 2, 1)
    return nn.Sequential(
        first, nn.ReLU(True), kind(4, 8, 3, padding=1, **options), nn.BatchNorm2d(8)
    )


def dcls():
    return network(DCLSConv2d)


def dk():
    return network(DeformableKernelConv2d, mode="local")


def dke():
    return network(DKEConv2d)


def coc():
    return network(CoCConv2d)


def drconv():
    return network(DRConv2d)


def plain():
    return network(nn.Conv2d)


def pointwise():
    return nn.Conv2d(3, 4, 1)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "an image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    return path


def page_of(folder):
    text = (folder / "index.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text).group(1)
    return text, json.loads(data)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_operator(name, tmp_path, image, run_tool):
    out = tmp_path / "pictures"
    said = run_tool("visualize", f"{HERE}:{name}", "--image", image, "--out", out, "--size", 64)
    written = {path.stem for path in out.glob("*.png")}
    assert written == PICTURES[name] | {"sampling_an image_0.5_0.5"}
    assert f"{len(written)} pictures" in said
    for path in out.glob("*.png"):
        # Not a blank sheet.
        assert np.asarray(Image.open(path)).std() > 5
    text, _ = page_of(out)
    assert (out / "index.html").stat().st_size < 5e6
    # Every picture is in the page, and nothing is fetched from anywhere.
    assert text.count('<img src="data:image/png;base64,') == len(written)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http" not in text


def test_points_in_the_page_are_the_layer_s(tmp_path, image, run_tool):
    out = tmp_path / "pictures"
    run_tool("visualize", f"{HERE}:dcls", "--image", image, "--out", out, "--size", 64)
    (shown,) = page_of(out)[1]
    (layer,) = shown["layers"]
    assert (shown["name"], layer["name"], layer["size"]) == ("an image", "2", [32, 32])
    rows, columns = len(layer["rows"]), len(layer["columns"])
    assert rows <= columns == 7
    table = np.frombuffer(base64.b64decode(layer["own"][0]), "<u2").reshape(-1, 3)
    assert len(table) == 4 * 8 * 5
    assert table[:, 2].max() == 1000


def test_the_page_s_numbers_are_the_points(tmp_path, image, run_tool):
    model = dcls()
    model[2].positions.data.zero_()
    model[2].positions.data[0] = 2
    checkpoint = tmp_path / "weights.pth"
    torch.save(model.state_dict(), checkpoint)
    out = tmp_path / "pictures"
    run_tool(
        *("visualize", f"{HERE}:dcls", checkpoint, "--image", image, "--out", out, "--size", 64)
    )
    (layer,) = page_of(out)[1][0]["layers"]
    for index, text in enumerate(layer["own"]):
        table = np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 3)
        row, column = divmod(index, len(layer["columns"]))
        x, y = (table[:, :2] / 4096 - 1).T
        assert np.allclose(x, layer["columns"][column], atol=2 / 4096)
        assert np.allclose(y, layer["rows"][row] + 2 / layer["size"][0], atol=2 / 4096)


def test_several_checkpoints_make_an_animation(tmp_path, run_tool):
    files = []
    for number in range(3):
        model = dcls()
        model[2].positions.data.mul_(number)
        files.append(tmp_path / f"epoch_{number}.pth")
        torch.save(model.state_dict(), files[-1])
    out = tmp_path / "pictures"
    run_tool("visualize", f"{HERE}:dcls", *files, "--out", out)
    frames = Image.open(out / "dcls_positions.gif")
    assert frames.n_frames == 3
    pixels = []
    for number in range(3):
        frames.seek(number)
        pixels.append(np.asarray(frames.convert("RGB")).astype(int))
    assert np.abs(pixels[0] - pixels[2]).max() > 50


def test_a_plain_network_has_sampling_points_too(tmp_path, image, run_tool):
    out = tmp_path / "pictures"
    run_tool(
        *("visualize", f"{HERE}:plain", "--image", image, "--out", out, "--size", 64),
        *("--layer", "3", "--point", "0.1,0.9", "--point", "1,1"),
    )
    assert {path.stem for path in out.glob("*.png")} == {
        "sampling_an image_0.1_0.9",
        "sampling_an image_1_1",
    }


def test_shown_layers_are_the_last_learnable_of_each_stage():
    model = nn.ModuleDict(
        dict(
            stem=nn.Conv2d(3, 4, 3, padding=1),
            layer1=nn.Sequential(DCLSConv2d(4, 4, 3, padding=1), DCLSConv2d(4, 4, 3, padding=1)),
            layer2=nn.Sequential(DKEConv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)),
        )
    )

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return model["layer2"](model["layer1"](model["stem"](x)))

    looked = SamplingPoints(Model(), torch.zeros(3, 8, 8))
    assert looked.before("parts.layer1.0") == ["parts.stem"]
    assert layers_to_show(Model(), looked) == ["parts.layer1.1", "parts.layer2.0"]


def test_layers_without_an_image():
    names = {picture.name for picture in draw_layers(nn.Sequential(dcls(), dk(), dke()))}
    assert names == PICTURES["dcls"] | PICTURES["dke"]
    assert [p.name for p in draw_positions(nn.Sequential(dcls(), dke()))] == [
        "dcls_positions",
        "dke_taps",
    ]
    assert draw_layers(plain()) == []


def test_all_forms_of_the_catalogue_are_drawn():
    """No option of an operator stops its pictures."""
    for operator in CATALOG:
        if operator.layer.spatial_dims != 2:
            continue
        for label, variant in operator.variants.items():
            model = nn.Sequential(operator.build(4, 8, 3, padding=1, **variant.options)).eval()
            calls = SamplingPoints(model, torch.randn(4, 12, 12)).calls
            for picture in draw_layers(model, calls, np.zeros((12, 12, 3), np.uint8)):
                assert picture.pixels().std() > 1, (operator.name, label, picture.name)


def test_the_speed_of_positions_from_a_log(tmp_path):
    log = tmp_path / "scalars.json"
    key = "position_step/backbone.layer2"
    records = [{"lr": 0.1 / (i + 1), key: 0.01 * i, "step": i} for i in range(1, 5)]
    log.write_text("\n".join(map(json.dumps, records)))
    axis, schedule = draw_log(log).figure.axes
    (line,) = axis.lines
    assert line.get_xydata().tolist() == [[i, 0.01 * i] for i in range(1, 5)]
    assert schedule.lines[0].get_ydata()[0] == 0.05
    assert "position_step" in LearnableConvStatsHook.__doc__
    log.write_text(json.dumps(dict(lr=1, step=1)))
    with pytest.raises(ValueError, match="has no position_step; train with custom_hooks"):
        draw_log(log)
    log.write_text('{"lr": ')
    with pytest.raises(ValueError, match="line 1 is no record"):
        draw_log(log)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{HERE}:plain"], f"{HERE}:plain: nothing to draw without --image and --log"),
        ([f"{HERE}:dcls", "--image", "none.png"], "--image none.png: does not exist"),
        ([f"{HERE}:dcls", "--image", "setup.py"], "setup.py: could not be read as an image"),
        ([f"{HERE}:dcls", "--size", 8], "--size 8: must be 32 or more"),
        ([f"{HERE}:dcls", "--log", "none.json"], "--log none.json: does not exist"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(arguments, message, tmp_path, run_tool):
    out = tmp_path / "out"
    assert run_tool("visualize", *arguments, "--out", out) == f"error: {message}"
    assert not out.exists()


def test_layers_that_are_not_there_are_named(tmp_path, image, run_tool):
    arguments = "--image", image, "--out", tmp_path / "out", "--size", 64
    said = run_tool("visualize", f"{HERE}:dcls", *arguments, "--layer", "neck")
    assert said == "error: layer: 'neck' is no module of Sequential"
    said = run_tool("visualize", f"{HERE}:pointwise", *arguments)
    assert "has no convolution larger than 1x1 that runs" in said


def small_and_large(tmp_path):
    """Images, dark left and bright right, with a small object on the dark and a large one on the
    bright half of each."""
    images, annotations = [], []
    for number in range(4):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:, 32:] = 200 + 5 * number
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        images.append(dict(id=number, file_name=f"{number}.png", height=64, width=64))
        for category, box in ((1, [12, 28, 8, 8]), (2, [36, 12, 24, 40])):
            annotations.append(dict(image_id=number, category_id=category, bbox=box))
    categories = [dict(id=1, name="small"), dict(id=2, name="large")]
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return file


def test_offsets_at_objects(tmp_path, run_tool):
    annotations = small_and_large(tmp_path)
    model = dk()
    # Offsets follow the brightness.
    nn.init.constant_(model[2].offset_weight, 0.01)
    checkpoint, out = tmp_path / "weights.pth", tmp_path / "out"
    torch.save(model.state_dict(), checkpoint)
    arguments = "--image", tmp_path, "--num-images", 1, "--size", 64, "--out", out
    said = run_tool(*("visualize", f"{HERE}:dk", checkpoint, "--ann-file", annotations, *arguments))
    assert "pictures" in said
    assert (out / "dk_objects.png").is_file()
    # Only one of the images is in the page, but the objects of all are in the picture.
    assert len(page_of(out)[1]) == 1
    assert "centres of 8 objects" in page_of(out)[0]


def test_offsets_are_those_of_the_boxes_centres():
    layer = DeformableKernelConv2d(1, 1, 3, padding=1, mode="local")
    looked = SamplingPoints(nn.Sequential(layer), torch.arange(64.0).view(1, 8, 8))
    nn.init.constant_(layer.offset_weight, 0.001)
    call = looked.calls["0"]
    found = offsets_at(layer, call, [(0.3, 0.9), (1.0, 0.0)])
    expected = layer.tap_positions(torch.tensor([[2, 7], [7, 0]]), call.args[0])
    assert np.array_equal(found, expected.detach().flatten(1).numpy())
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--ann-file none.json: does not exist"),
        ("{", "are no annotations of COCO"),
        ("{}", "are no annotations of COCO: KeyError('images')"),
        ('{"images": [], "categories": [], "annotations": []}', "has no box on any of 1 images"),
    ],
)
def test_wrong_annotations_are_named(text, message, tmp_path, image, run_tool):
    file = "none.json"
    if text is not None:
        file = tmp_path / "objects.json"
        file.write_text(text)
    arguments = "--ann-file", file, "--out", tmp_path / "out", "--size", 64
    assert message in run_tool("visualize", f"{HERE}:dk", "--image", image, *arguments)
    assert run_tool("visualize", f"{HERE}:dk", *arguments) == "error: --ann-file needs --image"
