"""What tools feed to a model is what mmengine's test loop feeds to it."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmlearnconv.datasets import InputPipeline
from mmlearnconv.datasets.loading import NamedLoadImageFromFile
from mmlearnconv.errors import UserValueError

SIZE = 64, 96  # multiples of 32, so that nothing is padded
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
DETECTOR = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackDetInputs"),
]
SEGMENTOR = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
RESIZED = [
    DETECTOR[0],
    dict(type="Resize", scale=SIZE[::-1], keep_ratio=True),
    dict(type="Pad", size_divisor=32, pad_val=dict(img=(114, 114, 114))),
    *DETECTOR[1:],
]


@TRANSFORMS.register_module()
class LoadArray(BaseTransform):
    """A user's own loader, of .npy files."""

    def transform(self, results):
        image = np.load(results["img_path"])
        results |= dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@TRANSFORMS.register_module()
class AddIndex(BaseTransform):
    """A user's own channel, of the first two."""

    def transform(self, results):
        first, second = (results["img"][..., i : i + 1].astype(np.float32) for i in (0, 1))
        results["img"] = np.concatenate([results["img"], first - second], 2).astype(np.float32)
        return results


def loading(pipeline, *steps, **options):
    return [dict(type="LoadImageFromFile", **options), *steps, *copy.deepcopy(pipeline[1:])]


# Toolbox, preprocessor, pipeline and dtype and channels of the image that is read.
CASES = {
    "rgb": ("mmdet", dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32), DETECTOR),
    "resized": ("mmdet", dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32), RESIZED),
    # YOLOX: pixels from 0 to 255, blue first.
    "bare": ("mmdet", dict(pad_size_divisor=32), DETECTOR),
    "float": ("mmdet", dict(mean=[0.0] * 3, std=[255.0] * 3), loading(DETECTOR, to_float32=True)),
    "gray": ("mmdet", dict(mean=[120.0], std=[60.0]), loading(DETECTOR, color_type="grayscale")),
    "pillow": ("mmdet", dict(mean=MEAN, std=STD), loading(DETECTOR, imdecode_backend="pillow")),
    "own step": (
        "mmdet",
        dict(mean=[100.0], std=[50.0]),
        loading(DETECTOR, dict(type="AddIndex")),
    ),
    "branches": (
        "mmdet",
        dict(
            type="MultiBranchDataPreprocessor",
            data_preprocessor=dict(type="DetDataPreprocessor", mean=MEAN, std=STD, bgr_to_rgb=True),
        ),
        DETECTOR,
    ),
    "segmentor": ("mmseg", dict(mean=MEAN, std=STD, bgr_to_rgb=True, size=(64, 64)), SEGMENTOR),
    "padded": (
        "mmseg",
        dict(mean=MEAN, std=STD, bgr_to_rgb=True, size=SIZE, test_cfg=dict(size_divisor=64)),
        SEGMENTOR,
    ),
    "mmengine's": (
        "mmdet",
        dict(type="mmengine.ImgDataPreprocessor", mean=MEAN, std=STD),
        DETECTOR,
    ),
    "none": ("mmdet", dict(type="mmengine.BaseDataPreprocessor"), DETECTOR),
    "16 bits": (
        "mmdet",
        dict(mean=[3e4], std=[1e4]),
        loading(DETECTOR, color_type="unchanged"),
        np.zeros((*SIZE, 1), np.uint16),
    ),
    "rgba": (
        "mmdet",
        dict(mean=[100.0], std=[50.0]),
        loading(DETECTOR, color_type="unchanged"),
        np.zeros((*SIZE, 4), np.uint8),
    ),
    "2 channels": (
        "mmdet",
        dict(mean=[1.0], std=[3.0]),
        [dict(type="LoadArray"), *DETECTOR[1:]],
        np.zeros((*SIZE, 2), np.float32),
    ),
    "12 channels": (
        "mmseg",
        dict(mean=[1.0], std=[2.0]),
        [dict(type="LoadArray"), *SEGMENTOR[1:]],
        np.zeros((*SIZE, 12), np.uint16),
    ),
}
PREPROCESSORS = dict(mmdet="DetDataPreprocessor", mmseg="SegDataPreProcessor")


@DATASETS.register_module()
class OneFile(Dataset):
    """One image through a pipeline, as the toolboxes' data sets pass it on."""

    def __init__(self, path, pipeline):
        self.path, self.pipeline = path, [TRANSFORMS.build(step) for step in pipeline]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        info = dict(img_path=self.path, img_id=0, height=SIZE[0], width=SIZE[1], instances=[])
        info |= dict(seg_fields=[], reduce_zero_label=False)
        for step in self.pipeline:
            info = step(info)
        return info


def written(like, folder):
    noise = np.random.default_rng(0).integers(0, 60000, like.shape)
    image = noise.astype(like.dtype) if like.dtype != np.uint8 else (noise % 256).astype(np.uint8)
    if image.shape[2] in (1, 3, 4) and image.dtype != np.float32:
        path = folder / "some.png"
        cv2.imwrite(str(path), image)
    else:
        path = folder / "some.npy"
        np.save(path, image)
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_tool_s_input_is_the_test_loop_s(name, tmp_path):
    scope, options, pipeline, *like = CASES[name]
    init_default_scope(scope)
    path = written(like[0] if like else np.zeros((*SIZE, 3), np.uint8), tmp_path)
    preprocessor = dict(type=PREPROCESSORS[scope]) | copy.deepcopy(options)
    # Of an image, the data set gives no annotations.
    fed = [step for step in pipeline if step["type"] != "LoadAnnotations"]
    loader = dict(
        dataset=dict(type="mmengine.OneFile", path=str(path), pipeline=fed),
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    (batch,) = Runner.build_dataloader(copy.deepcopy(loader), seed=0)
    expected = MODELS.build(copy.deepcopy(preprocessor))(batch, False)["inputs"][0]
    loader["dataset"]["pipeline"] = pipeline
    cfg = Config(
        dict(
            default_scope=scope,
            model=dict(data_preprocessor=preprocessor),
            test_dataloader=loader,
        )
    )
    own = InputPipeline(cfg)
    loaded = own.load(path)
    found = own.tensor(loaded, SIZE)
    # A model's own preprocessor, where a Runner was built without a config of it.
    model = nn.Module()
    model.data_preprocessor = MODELS.build(copy.deepcopy(preprocessor))
    bare = InputPipeline(Config(dict(default_scope=scope, test_dataloader=loader)), model)
    assert torch.equal(bare.tensor(bare.load(path), SIZE), found)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected[:, : SIZE[0], : SIZE[1]].float())
    assert loaded.picture.shape == (*SIZE, 3)
    assert loaded.picture.dtype == np.uint8
    assert loaded.picture.std() > 20
    (whole,) = own.batch(loaded)["inputs"]
    assert torch.equal(whole, batch["inputs"][0])


def test_colours_are_shown_as_they_are(tmp_path):
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((8, 8, 3), (0, 0, 200), np.uint8))
    np.save(tmp_path / "red.npy", np.full((8, 8, 3), (200, 0, 0), np.uint8))
    np.save(tmp_path / "blue first.npy", np.full((8, 8, 3), (0, 0, 200), np.uint8))
    own = [dict(type="LoadArray"), *DETECTOR[1:]]
    for steps, file, exchanges in (
        (DETECTOR, path, False),
        (DETECTOR, path, True),
        (own, tmp_path / "red.npy", False),
        (own, tmp_path / "blue first.npy", True),
    ):
        model = dict(data_preprocessor=dict(type="DetDataPreprocessor", bgr_to_rgb=exchanges))
        cfg = Config(dict(default_scope="mmdet", model=model, test_pipeline=steps))
        assert (InputPipeline(cfg).load(file).picture == (200, 0, 0)).all()
    assert (InputPipeline(None).load(path).picture == (200, 0, 0)).all()


def test_an_image_of_another_size_is_resized(tmp_path):
    path = written(np.zeros((50, 70, 3), np.uint8), tmp_path)
    model = dict(data_preprocessor=dict(type="DetDataPreprocessor"))
    cfg = Config(dict(default_scope="mmdet", model=model, test_pipeline=RESIZED))
    pipeline = InputPipeline(cfg)
    found = pipeline.tensor(pipeline.load(path), (32, 64))
    expected = cv2.resize(cv2.imread(str(path)), (64, 32), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_steps_that_need_more_than_an_image(tmp_path):
    """Ground truth is left out before it could need a package; videos are refused by name."""
    panoptic = dict(type="LoadPanopticAnnotations", backend_args=None)
    steps = [DETECTOR[0], panoptic, dict(type="LoadProposals"), DETECTOR[-1]]
    path = written(np.zeros((8, 8, 3), np.uint8), tmp_path)
    pipeline = InputPipeline(Config(dict(default_scope="mmdet", test_pipeline=steps)))
    assert pipeline.batch(pipeline.load(path))["inputs"][0].shape == (3, 8, 8)
    steps = [dict(type="TransformBroadcaster", transforms=DETECTOR[:1]), DETECTOR[-1]]
    with pytest.raises(UserValueError, match="TransformBroadcaster: videos, and images with"):
        InputPipeline(Config(dict(default_scope="mmdet", test_pipeline=steps)))


def test_what_is_no_image_is_named(tmp_path):
    path = tmp_path / "some.jpg"
    path.write_text("<html>")
    for cfg in (None, Config(dict(default_scope="mmdet", model={}, test_pipeline=DETECTOR))):
        with pytest.raises(ValueError, match=r"some\.jpg: could not be read as an image"):
            InputPipeline(cfg).load(path)


@TRANSFORMS.register_module()
class LoadWrongly(BaseTransform):
    def transform(self, results):
        return results["no such key"]


def test_a_fault_of_a_user_s_loader_shows_as_one(tmp_path):
    steps = [dict(type="LoadWrongly"), *DETECTOR[1:]]
    cfg = Config(dict(default_scope="mmdet", model={}, test_pipeline=steps))
    with pytest.raises(KeyError, match="no such key"):
        InputPipeline(cfg).load(tmp_path / "a.png")


@pytest.mark.parametrize("options", [dict(imdecode_backend="turbojpeg"), dict(color_type="grey")])
def test_a_loader_that_cannot_load_is_no_fault_of_the_file(options, tmp_path):
    """A library that is missing, and a misspelt option."""
    path = written(np.zeros((8, 8, 3), np.uint8), tmp_path)
    steps = loading(DETECTOR, **options)
    cfg = Config(dict(default_scope="mmdet", model={}, test_pipeline=steps))
    named = NamedLoadImageFromFile(**options)
    for load in (InputPipeline(cfg).load, lambda path: named(dict(img_path=str(path)))):
        with pytest.raises((ImportError, KeyError, AttributeError, ValueError)) as error:
            load(path)
        assert "decoded" not in str(error.value)
        assert "could not be read as an image" not in str(error.value)
