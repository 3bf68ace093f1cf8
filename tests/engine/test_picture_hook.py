"""The hook that draws while a model trains."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmlearnconv.engine import LearnableConvPictureHook
from mmlearnconv.layers import DCLSConv2d, DRConv2d


@DATASETS.register_module()
class PictureTestImages(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((3, 8, 8), float(index)))


@MODELS.register_module()
class PictureTestModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            DCLSConv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), DRConv2d(4, 4, 3, padding=1)
        )

    def forward(self, inputs, mode="tensor"):
        x = self.backbone(inputs)
        return dict(loss=x.square().mean()) if mode == "loss" else x


def train(work_dir, **hook):
    runner = Runner(
        model=dict(type="PictureTestModel"),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dict(type="PictureTestImages"),
            batch_size=2,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0)),
        custom_hooks=[dict(type="LearnableConvPictureHook", **hook)] if hook else [],
        visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
        cfg=dict(model=dict(type="PictureTestModel")),
        experiment_name=f"pictures-{work_dir.name}",
    )
    runner.train()
    return runner.model, {path.name for path in work_dir.rglob("vis_image/*.png")}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    return str(path)


def test_pictures_every_epoch_go_to_the_visualiser(tmp_path, image):
    model, written = train(tmp_path / "with", interval=1, image=image, size=64)
    names = ("dcls_positions", "dcls_kernels", "drconv_masks", "drconv_use", "sampling_points")
    assert written == {f"{name}_{epoch}.png" for name in names for epoch in (1, 2)}
    assert model.training
    # Twice two batches, and not the image, are in the batch norm's statistics.
    assert model.backbone[1].num_batches_tracked == 4


def test_every_second_iteration_without_an_image(tmp_path):
    _, written = train(tmp_path / "iterations", interval=2, by_epoch=False)
    assert written == {
        f"{name}_{step}.png" for name in ("dcls_positions", "dcls_kernels") for step in (2, 4)
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(interval=0), ValueError, "interval: 0; must be at least 1"),
        (dict(size=8), ValueError, "size: 8; must be at least 32"),
        (dict(image="none.png"), FileNotFoundError, "image: 'none.png' does not exist"),
    ],
)
def test_what_it_cannot_draw_is_said_at_the_start(arguments, error, message):
    with pytest.raises(error, match=message):
        LearnableConvPictureHook(**arguments)


def test_a_file_that_the_config_cannot_read_is_named_before_the_first_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(PictureTestModel, "train_step", lambda *_, **__: steps.append(1))
    with pytest.raises(ValueError, match="could not be read as an image"):
        train(tmp_path / "out", image=__file__)
    assert not steps
