"""Images as a model takes them."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..datasets import InputPipeline


def read_image(path: Path, cfg: Any = None) -> np.ndarray:
    """A file as a picture: ``(H, W, 3)``, RGB, 8 bits.

    Args:
        path: the file.
        cfg: config of a model, whose test pipeline reads it. Default: ``None``, as mmcv reads it.

    Raises:
        ValueError: the file is no image.
    """
    return InputPipeline(cfg).load(path).picture


def normalise(image: np.ndarray, size: tuple[int, int], cfg: Any) -> Tensor:
    """An image as a model takes it, ``(C, *size)``: by its config's pipeline and preprocessor.

    Args:
        image: ``(H, W, C)`` of any size; three channels are red, green and blue.
        size: height and width to resize it to.
        cfg: config of the model, or ``None``; the image then gets ImageNet's mean and deviation.
    """
    pipeline = InputPipeline(cfg)
    loaded = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    return pipeline.tensor(pipeline.from_array(np.ascontiguousarray(loaded)), size)


def size_for(image: np.ndarray, longer: int) -> tuple[int, int]:
    """Height and width for a longer side of about ``longer``, multiples of 32 as strides need."""
    height, width = (
        max(32, round(side * longer / max(image.shape[:2]) / 32) * 32) for side in image.shape[:2]
    )
    return height, width
