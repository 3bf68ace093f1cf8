"""Images that a command line names, as a model takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import scandir
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Of images in RGB, where a config does not say: ImageNet's.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def find_images(option: str, paths: Sequence[str], most: int | None = None) -> list[Path]:
    """The files that paths name; those of a folder sorted by name.

    Args:
        option: the option that gave the paths, for errors.
        paths: files, and folders of them.
        most: only so many. Default: all.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(path / name for name in scandir(str(path), SUFFIXES, True, False))
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{option} {path}: does not exist")
    if not files:
        raise ValueError(f"{option} {' '.join(paths)}: no file that ends with {SUFFIXES}")
    return files[:most]


def read_image(path: Path) -> np.ndarray:
    """``(H, W, 3)``, RGB.

    Raises:
        ValueError: the file is no image.
    """
    image = mmcv.imread(path)
    if image is None:
        raise ValueError(f"{path}: could not be read as an image")
    return np.ascontiguousarray(image[..., ::-1])


def normalise(image: np.ndarray, size: tuple[int, int], cfg: Config | None) -> Tensor:
    """An image ``(H, W, 3)`` in RGB as a config's model takes it, ``(3, *size)``.

    Without a config, or where it says nothing, with ImageNet's mean and deviation.
    """
    own: dict[str, Any] = {} if cfg is None else cfg.model.get("data_preprocessor") or {}
    image = mmcv.imresize(image, size[::-1], interpolation="bicubic")
    if not own.get("bgr_to_rgb", True):
        image = image[..., ::-1]
    mean, std = (np.array(own.get(k) or v) for k, v in (("mean", _MEAN), ("std", _STD)))
    return torch.from_numpy((image - mean) / std).permute(2, 0, 1).float()
