"""The commands of the pages on own data and on looking, as they stand there."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.utils import get_installed_path

from tests.conftest import ROOT, config_path
from tests.tools.pages import commands, link_epoch_12, run_page
from tests.tools.test_demo import KINDS, checkpoint_of, write_image
from tests.tools.test_pretrained_page import plain_network

pytestmark = pytest.mark.slow

WORDS = dict(CONFIG=str(config_path("quickstart_mask_rcnn_dcls")), CHECKPOINT="random.pth")
SMALL_IMAGES = dict(
    compare=["--size", "64", "64"],
    visualize=["--size", "64"],
    receptive_field=["--size", "64"],
)
CHECKPOINTS = {
    "dcls/mask_rcnn_convnext_t": "plain.pth",
    "mask_rcnn_dcls_convnext_t": "dcls.pth",
}


def write_configs(folder):
    """The page's config as ``mine.py``, on its base with less to compute."""
    text = re.search(r"```python\n(_base_.+?)```", (ROOT / "docs/own_data.md").read_text(), re.S)[1]
    base = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    assert f'"mmdet::{base}"' in text
    (folder / "mine.py").write_text(text.replace(f"mmdet::{base}", "./small.py"))
    cfg = Config.fromfile(f"{get_installed_path('mmdet')}/.mim/configs/{base}")
    cfg.model.backbone.update(depth=18, base_channels=16)
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    cfg.train_cfg.max_epochs = 1
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.indices = 2
        for transform in loader.dataset.pipeline:
            if transform["type"] == "Resize":
                transform["scale"] = (320, 192)
    cfg.dump(folder / "small.py")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, tiny_coco):
    """A folder with two classes' images and annotations, and what the page's commands print."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    mine = folder / "data/mine"
    (mine / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (mine / split).symlink_to(tiny_coco / split)
        name = f"annotations/instances_{split}.json"
        content = json.loads((tiny_coco / name).read_text())
        people = content["categories"][0]["id"]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1 if annotation["category_id"] == people else 2
        content["categories"] = [dict(id=1, name="bolt"), dict(id=2, name="nut")]
        (mine / name).write_text(json.dumps(content))
    write_configs(folder)
    plain_network(folder / "small.py", folder / "mask_rcnn_r50_fpn_1x_coco.pth")
    write_image(folder / "photos/one.jpg")
    (folder / "photos/sub").mkdir()
    (folder / "photos/sub/two.jpg").symlink_to(folder / "photos/one.jpg")

    def options(tool, command):
        return SMALL_IMAGES.get(tool, [])

    printed = run_page("own_data", folder, options, after=lambda: link_epoch_12(folder))
    return folder, printed


def said(printed, tool):
    (output,) = (text for command, text in printed.items() if f"tools/{tool}.py" in command)
    return output


@pytest.mark.xdist_group("own_data")
def test_own_data_from_a_to_z(own_data):
    folder, printed = own_data
    assert "| DCLS " in said(printed, "compare")
    # The plain network's weights are taken over; its heads know 80 classes, not 2.
    assert "4 DCLSConv2d layers set from plain convolution weights" in said(printed, "train")
    assert "size mismatch for roi_head.bbox_head.fc_cls.weight" in said(printed, "train")
    assert "coco/bbox_mAP" in said(printed, "test")
    drawn = {p.relative_to(folder / "drawn").as_posix() for p in (folder / "drawn").rglob("*.jpg")}
    assert drawn == {"one.jpg", "sub/two.jpg"}
    assert (folder / "learned/index.html").is_file()
    assert "folded 4 convolutions" in said(printed, "fold")
    assert (folder / "work_dirs/folded/mine.pth").is_file()


@pytest.fixture(scope="module")
def looking(tmp_path_factory):
    """A folder in which the commands of the pages on looking find what they name."""
    folder = tmp_path_factory.mktemp("look")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    write_image(folder / "photo.jpg")
    write_image(folder / "folder/one.jpg")
    write_image(folder / "data/coco/val2017/one.jpg")
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))
    for value in (0, 200):
        video.write(np.full((48, 64, 3), value, np.uint8))
    video.release()
    checkpoint_of(WORDS["CONFIG"], folder / "random.pth", KINDS)
    for name, path in CHECKPOINTS.items():
        checkpoint_of(config_path(name), folder / path, ())
    return folder


@pytest.mark.xdist_group("looking")
@pytest.mark.parametrize("page", ["look", "compare", "receptive_fields"])
def test_commands_on_looking_run(page, looking):
    def options(tool, command):
        if "cuda" in command and not torch.cuda.is_available():
            return ["--device", "cpu"]
        return SMALL_IMAGES.get(tool, [])

    assert len(run_page(page, looking, options, words=WORDS)) == len(commands(page))
