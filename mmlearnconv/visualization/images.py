"""Images as a model takes them."""

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from torch import Tensor

# Of images in RGB, where a config does not say: ImageNet's.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def read_image(path: Path) -> np.ndarray:
    """``(H, W, 3)``, RGB.

    Raises:
        ValueError: the file is no image.
    """
    image = mmcv.imread(path)
    if image is None:
        raise ValueError(f"{path}: could not be read as an image")
    return np.ascontiguousarray(image[..., ::-1])


def normalise(image: np.ndarray, size: tuple[int, int], cfg: Any) -> Tensor:
    """An image ``(H, W, 3)`` in RGB as a model takes it, ``(3, *size)``.

    Args:
        image: of any size.
        size: height and width to resize it to.
        cfg: config of the model, or ``None``; where it says nothing, the image gets ImageNet's mean
            and deviation.
    """
    own: dict[str, Any] = {} if cfg is None else cfg.model.get("data_preprocessor") or {}
    image = mmcv.imresize(image, size[::-1], interpolation="bicubic")
    if not own.get("bgr_to_rgb", True):
        image = image[..., ::-1]
    mean, std = (np.array(own.get(k) or v) for k, v in (("mean", _MEAN), ("std", _STD)))
    return torch.from_numpy((image - mean) / std).permute(2, 0, 1).float()


def size_for(image: np.ndarray, longer: int) -> tuple[int, int]:
    """Height and width for a longer side of about ``longer``, multiples of 32 as strides need."""
    height, width = (
        max(32, round(side * longer / max(image.shape[:2]) / 32) * 32) for side in image.shape[:2]
    )
    return height, width
