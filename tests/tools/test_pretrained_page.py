"""The commands of docs/pretrained.md, as they stand there."""

import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.conftest import ROOT
from tests.tools.pages import link_epoch_12, run_page
from tests.tools.test_command_lines import ONE_PROCESS

pytestmark = pytest.mark.slow

SMALL_IMAGES = {
    "train": [
        "train_dataloader.dataset.pipeline.2.scale=(320,192)",
        "train_dataloader.dataset.indices=1",
        "train_dataloader.batch_size=1",
        "train_cfg.max_epochs=1",
        "val_dataloader.dataset.indices=1",
    ],
    "test": [
        "test_dataloader.dataset.pipeline.1.scale=(320,192)",
        "test_dataloader.dataset.indices=2",
    ],
    "fold": ["test_dataloader.dataset.pipeline.1.scale=(320,192)"],
    "convert_checkpoint": [],
}


def plain_network(config, path):
    """A checkpoint of one of mmdet's plain detectors, with random weights."""
    init_default_scope("mmdet")
    cfg = Config(dict(Config.fromfile(config, import_custom_modules=False)))
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if name.endswith("_cls.weight"):
            parameter.data.normal_(std=10)  # Otherwise all scores are low.
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)


def authors_convnext(path):
    """A plain ConvNeXt-T under its authors' names."""
    from mmlearnconv.models import ConvNeXt

    ours = ConvNeXt(out_indices=(3,)).state_dict()
    names = dict(depthwise_conv="dwconv", pointwise_conv1="pwconv1", pointwise_conv2="pwconv2")
    state = {".".join(names.get(p, p) for p in k.split(".")): v for k, v in ours.items()}
    state = {k.replace("norm3.", "norm."): v for k, v in state.items()}
    torch.save(dict(model=state), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_coco):
    """A folder in which the commands of the docs find what they name."""
    from mmengine.utils import get_installed_path

    path = tmp_path_factory.mktemp("docs")
    for name in ("tools", "configs"):
        (path / name).symlink_to(ROOT / name)
    (path / "data/coco/val2017").mkdir(parents=True)
    for name in ("annotations", "train2017"):
        (path / "data/coco" / name).symlink_to(tiny_coco / name)
    for image in (tiny_coco / "val2017").iterdir():
        (path / "data/coco/val2017" / image.name).symlink_to(image)
    (path / "data/coco/val2017/demo.jpg").symlink_to(image)
    shipped = get_installed_path("mmdet") + "/.mim/configs/"
    plain_network(shipped + "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", path / "plain.pth")
    plain_network(shipped + "retinanet/retinanet_r50_fpn_1x_coco.py", path / "retinanet.pth")
    authors_convnext(path / "convnext.pth")
    return path


@pytest.fixture(scope="module")
def outputs(folder):
    """What every command of the page prints."""

    def options(tool, command):
        # ConvNeXt has another pipeline; its images stay large.
        convnext = "convnext_t" in command
        options = [o for o in SMALL_IMAGES[tool] if not (convnext and "scale" in o)]
        if options and "--cfg-options" not in command:
            options.insert(0, "--cfg-options")
        return options + ONE_PROCESS if tool in ("train", "test") else options

    return run_page("pretrained", folder, options, after=lambda: link_epoch_12(folder))


def said(outputs, *words):
    (output,) = (o for command, o in outputs.items() if all(w in command for w in words))
    return output


@pytest.mark.xdist_group("docs")
def test_every_command_of_the_page_runs(outputs):
    assert len(outputs) == 9


@pytest.mark.xdist_group("docs")
def test_plain_weights_are_taken_over_and_reported(outputs):
    for words, count in (
        (("test.py", "retinanet_coc", "retinanet.pth"), "17 CoCConv2d"),
        (("train.py", "retinanet_coc"), "17 CoCConv2d"),
        (("test.py", "dcls_r50"), "16 DCLSConv2d"),
        (("train.py", "dcls_r50"), "16 DCLSConv2d"),
    ):
        line = (
            f"{count} layers set from plain convolution weights; largest relative error of a kernel"
        )
        assert re.search(line + r" (0\.0e\+00|\de-0[789])", said(outputs, *words))
    assert "16 convolutions swapped" in said(outputs, "test.py", "dcls_r50")
    # Fewer elements than cells: near, with the error in the log.
    assert re.search(
        r"18 DCLSConv2d layers .* kernel \d\.\de-01", said(outputs, "train.py", "convnext_t")
    )


@pytest.mark.xdist_group("docs")
def test_folding_says_how_well_and_what_it_wrote(outputs, folder):
    coc, dcls = said(outputs, "fold.py", "retinanet_coc"), said(outputs, "fold.py", "dcls_r50")
    for text, count in ((coc, 17), (dcls, 16)):
        assert f"folded {count} convolutions" in text
        difference = re.search(r"largest relative difference on .*demo.jpg: (\S+),", text)
        assert float(difference.group(1)) < 1e-4
        assert re.search(r"time per image: \d+ ms before, \d+ ms after, ratio \d+\.\d\d", text)
    assert "retinanet_coc_r50.pth; the config does not need mmlearnconv" in coc
    assert "mask_rcnn_dcls_r50.pth; the config needs mmlearnconv" in dcls
    assert "mmlearnconv" not in (folder / "folded/retinanet_coc_r50.py").read_text()


ALONE = """
import runpy, sys
sys.modules["mmlearnconv"] = None  # Any import of it fails.
"""
PREDICT = """
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
cfg = Config.fromfile(sys.argv[1])
cfg.test_dataloader.dataset.pipeline[1].scale = (320, 192)
model = init_detector(cfg, sys.argv[2], device="cpu")
result = inference_detector(model, sys.argv[3]).pred_instances
torch.save(dict(bboxes=result.bboxes, scores=result.scores), sys.argv[4])
"""


@pytest.mark.xdist_group("docs")
def test_a_trained_and_folded_coc_model_runs_in_stock_mmdet(outputs, folder):
    """Loads, predicts and is tested by mmdet's own tool, where this package cannot be imported."""
    from mmengine.utils import get_installed_path

    image = "data/coco/val2017/demo.jpg"
    results = []
    for name, prelude, paths in (
        ("ours", "import sys", ("configs/coc/retinanet_coc_r50.py", "work_dirs/coc/epoch_12.pth")),
        ("stock", ALONE, ("folded/retinanet_coc_r50.py", "folded/retinanet_coc_r50.pth")),
    ):
        saved = folder / f"{name}.pth"
        code = prelude + PREDICT
        subprocess.run(
            [sys.executable, "-c", code, *paths, image, str(saved)],
            cwd=folder,
            env=os.environ | dict(PYTHONPATH=str(ROOT)),
            check=True,
            capture_output=True,
        )
        results.append(torch.load(saved))
    ours, stock = results
    assert len(ours["scores"]) > 0
    torch.testing.assert_close(stock["scores"], ours["scores"], rtol=1e-4, atol=1e-4)
    tool = get_installed_path("mmdet") + "/.mim/tools/test.py"
    code = ALONE + "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", code, tool, *paths, "--work-dir", folder / "stock", "--cfg-options"]
        + [*SMALL_IMAGES["test"], *ONE_PROCESS]
        + [f"{s}.dataset.data_root={folder}/data/coco/" for s in ("test_dataloader",)]
        + [f"test_evaluator.ann_file={folder}/data/coco/annotations/instances_val2017.json"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.xdist_group("docs")
def test_mmdet_s_own_tool_takes_a_swapped_config(folder, tmp_path):
    from mmengine.utils import get_installed_path

    command = [
        get_installed_path("mmdet") + "/.mim/tools/test.py",
        "configs/dcls/mask_rcnn_dcls_r50.py",
    ]
    result = subprocess.run(
        [
            *(sys.executable, *command, "plain.pth", "--work-dir", tmp_path),
            *("--cfg-options", *SMALL_IMAGES["test"], *ONE_PROCESS),
        ],
        cwd=folder,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-5000:]
    # The log's line on plain weights is of this package's tools, or of an optimizer's first step.
    assert "The model and loaded state dict do not match" not in output
    assert "coco/bbox_mAP" in output
