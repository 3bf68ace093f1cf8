"""Sizes of images in pictures."""

import numpy as np


def size_for(image: np.ndarray, longer: int) -> tuple[int, int]:
    """Height and width for a longer side of about ``longer``, multiples of 32 as strides need."""
    height, width = (
        max(32, round(side * longer / max(image.shape[:2]) / 32) * 32) for side in image.shape[:2]
    )
    return height, width
