"""Images as a config's test run feeds them to its model."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, MODELS, TRANSFORMS
from torch import Tensor, nn

from ..errors import UserValueError
from .loading import is_undecodable

# Of images in RGB, for a model without a config: ImageNet's.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Steps that change the size of an image; where a tool gives it another size, they have no place.
# Steps that load what an image alone does not have, by parts of their names.
_LOADS_TRUTH = "Annotation", "Proposals"
_SIZES = ("Resize", "Pad", "Crop", "RandomFlip")


class LoadedImage:
    """What the loading steps of a pipeline gave.

    Args:
        results: of the pipeline's steps, with the pixels under ``'img'``.
        is_bgr: whether three channels are blue, green and red.
    """

    def __init__(self, results: dict[str, Any], is_bgr: bool = True) -> None:
        self.results, self._is_bgr = results, is_bgr

    @property
    def pixels(self) -> np.ndarray:
        """``(H, W)`` or ``(H, W, C)``, of any dtype."""
        return self.results["img"]

    @property
    def picture(self) -> np.ndarray:
        """For people: ``(H, W, 3)``, RGB, 8 bits; of more channels the first three.

        Values that do not fit into 8 bits are spread from the image's smallest to its largest.
        """
        image = self.pixels if self.pixels.ndim == 3 else self.pixels[..., None]
        channels = image.shape[2]
        if channels == 1:
            image = image.repeat(3, 2)
        elif channels == 2:
            image = np.concatenate([image, np.zeros_like(image[..., :1])], 2)
        elif self._is_bgr and channels in (3, 4):
            image = image[..., 2::-1]
        image = image[..., :3]
        if image.dtype != np.uint8:
            image = image.astype(np.float64)
            low, high = image.min(), image.max()
            if low < 0 or high > 255 or high <= 1:
                image = (image - low) * (255 / max(high - low, 1e-12))
            image = image.round().astype(np.uint8)
        return np.ascontiguousarray(image)


class InputPipeline:
    """The test pipeline and the data preprocessor of a config, for single images.

    Steps that load annotations are left out. A config without a test pipeline reads images as
    mmcv's ``LoadImageFromFile`` does.

    Args:
        cfg: the config, or ``None``.
        model: the model, whose data preprocessor is taken. Default: ``None``; the config's is then
            built, and without a config images are RGB with ImageNet's mean and deviation.
    """

    def __init__(self, cfg: Config | None, model: nn.Module | None = None) -> None:
        self.cfg = cfg
        scope = None if cfg is None else cfg.get("default_scope")
        steps = [
            (getattr(step["type"], "__name__", step["type"]), step)
            for step in _steps_of(cfg) or [dict(type="LoadImageFromFile")]
        ]
        loads = [
            name.startswith("Load") and any(t in name for t in _LOADS_TRUTH) for name, _ in steps
        ]
        steps = [step for step, left_out in zip(steps, loads, strict=True) if not left_out]
        self._names = [name for name, _ in steps]
        if several := [name for name in self._names if name.endswith("Broadcaster")]:
            raise UserValueError(
                f"the config's test pipeline has {several[0]}: videos, and images with proposals, "
                "are not read here"
            )
        with TRANSFORMS.switch_scope_and_registry(scope) as registry:
            self._steps = [registry.build(copy.deepcopy(step)) for _, step in steps]
        # How many steps load the image; where a file was loaded, as many as it took.
        self._loading = 1
        # mmcv reads blue first; a user's own loader as the preprocessor says.
        told = _model_of(cfg).get("data_preprocessor") or {}
        exchanged = told.get("bgr_to_rgb") or told.get("to_rgb")
        self._is_bgr = isinstance(self._steps[0], LoadImageFromFile) or bool(exchanged)
        self._preprocess = getattr(model, "data_preprocessor", None) or (
            _imagenet if cfg is None else _preprocessor(cfg, scope)
        )

    def load(self, path: Path | str) -> LoadedImage:
        """Read a file as the config does.

        Raises:
            ValueError: it cannot be read so.
        """
        results: dict[str, Any] | None = dict(img_path=str(path), img_id=0)
        for number, step in enumerate(self._steps, 1):
            try:
                results = step(results)
            except FileNotFoundError:
                raise
            except Exception as error:
                if isinstance(step, LoadImageFromFile):
                    if not is_undecodable(error):
                        raise
                    raise UserValueError(f"{path}: could not be read as an image") from error
                if isinstance(error, (OSError, ValueError)):
                    reason = f"{type(error).__name__}: {error}"
                    raise UserValueError(f"{path}: could not be read ({reason})") from error
                raise
            if results is None:
                raise UserValueError(f"{path}: could not be read as an image")
            if "img" in results:
                self._loading = number
                return LoadedImage(results, self._is_bgr)
        raise UserValueError(f"{path}: the config's test pipeline loads no image")

    def from_array(self, image: np.ndarray) -> LoadedImage:
        """An image ``(H, W, C)`` as if it had been loaded so."""
        size = image.shape[:2]
        shapes = dict(img_shape=size, ori_shape=size, height=size[0], width=size[1])
        return LoadedImage(dict(img=image, img_id=0, img_path="", **shapes), self._is_bgr)

    def batch(self, image: LoadedImage) -> dict[str, Any]:
        """A batch of one image as the test loop gives it to the model's ``test_step``."""
        return self._collate(self._run(copy.deepcopy(image.results), self._later_steps()))

    def tensor(self, image: LoadedImage, size: tuple[int, int]) -> Tensor:
        """``(C, *size)``, as the data preprocessor gives an image of this size to the network.

        Args:
            image: of any size.
            size: height and width to which it is resized in place of the pipeline's own.
        """
        results = copy.deepcopy(image.results)
        if results["img"].shape[:2] != size:
            results["img"] = mmcv.imresize(results["img"], size[::-1], interpolation="bicubic")
        results |= dict(img_shape=size, ori_shape=size, height=size[0], width=size[1])
        results.setdefault("scale_factor", (1.0, 1.0))
        batch = self._collate(self._run(results, self._later_steps(of_any_size=False)))
        inputs = self._preprocess(batch, False)
        inputs = inputs.get("inputs", inputs.get("images"))
        while isinstance(inputs, (list, tuple)) or inputs.ndim == 4:
            inputs = inputs[0]
        return inputs[:, : size[0], : size[1]].float()

    def _later_steps(self, of_any_size: bool = True) -> Iterator[Callable[[Any], Any]]:
        """The steps behind those that load the image."""
        for name, step in list(zip(self._names, self._steps, strict=True))[self._loading :]:
            if of_any_size or not any(part in name for part in _SIZES):
                yield step

    @staticmethod
    def _run(results: Any, steps: Iterator[Callable[[Any], Any]]) -> Any:
        for step in steps:
            results = step(results)
        return results

    def _collate(self, results: dict[str, Any]) -> dict[str, Any]:
        if "inputs" not in results:
            image = np.atleast_3d(results["img"])
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            return dict(inputs=[pixels], data_samples=None)
        loader = {} if self.cfg is None else self.cfg.get("test_dataloader") or {}
        options = dict(loader.get("collate_fn") or dict(type="pseudo_collate"))
        function = options.pop("type")
        function = FUNCTIONS.get(function) if isinstance(function, str) else function
        return partial(function, **options)([results])


def unwrap_dataset(dataset: dict[str, Any]) -> dict[str, Any]:
    """The config of a data set within its wrappers, which has the pipeline; of several, one."""
    while "pipeline" not in dataset and (dataset.get("dataset") or dataset.get("datasets")):
        dataset = dataset.get("dataset") or dataset["datasets"][0]
    return dataset


def _steps_of(cfg: Config | None) -> list[dict[str, Any]]:
    for loader in ("test_dataloader", "val_dataloader"):
        dataset = unwrap_dataset(
            ({} if cfg is None else cfg.get(loader) or {}).get("dataset") or {}
        )
        if dataset.get("pipeline"):
            return dataset["pipeline"]
    return [] if cfg is None else cfg.get("test_pipeline") or []


def _model_of(cfg: Config | None) -> dict[str, Any]:
    return ({} if cfg is None else cfg.get("model")) or {}


def _preprocessor(cfg: Config, scope: str | None) -> Callable[..., Any]:
    options = copy.deepcopy(_model_of(cfg).get("data_preprocessor") or {})
    # mmpretrain's classifiers name it for their configs, mmengine's models for the others.
    default = "ClsDataPreprocessor" if scope == "mmpretrain" else "mmengine.BaseDataPreprocessor"
    options.setdefault("type", default)
    with MODELS.switch_scope_and_registry(scope) as registry:
        return registry.build(options)


def _imagenet(batch: dict[str, Any], _: bool) -> dict[str, Any]:
    pixels = batch["inputs"][0].flip(0).double()
    mean, std = (
        torch.tensor(values, dtype=torch.double)[:, None, None] for values in (_MEAN, _STD)
    )
    return dict(inputs=[(pixels - mean) / std])
