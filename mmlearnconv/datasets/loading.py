"""Reading images and label maps, with the name of one that cannot be read."""

import functools
import os
import struct
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

# What mmseg keeps of a label map's values: 8 bits.
_LARGEST_LABEL = 255
_PNG, _BITS_AT = b"\x89PNG", 24


class ImageError(OSError):
    """A file that is no image, or a damaged one, or a label map that would be read wrongly."""


def is_undecodable(error: Exception) -> bool:
    """Whether a decoder of mmcv's failed at what a file holds, and not for want of a library."""
    if isinstance(error, (FileNotFoundError, PermissionError, ConnectionError)):
        return False
    # mmcv asserts that there is an image. Pillow raises SyntaxError for some broken files.
    kinds = AssertionError, EOFError, OSError, SyntaxError, struct.error, cv2.error
    return isinstance(error, kinds) or type(error).__name__ == "TiffFileError"


class NamedLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` whose errors name the file.

    Raises:
        ImageError: the file cannot be decoded.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Read the image of ``img_path``."""
        try:
            return super().transform(results)
        except Exception as error:
            if not is_undecodable(error):
                raise
            raise _undecodable("image", results["img_path"]) from error


def name_unreadable_images(scope: str | None = None) -> None:
    """Have pipelines name images and label maps that cannot be read, in the rest of the process.

    A label map of several channels, or with values beyond 8 bits, cannot be read either.

    Args:
        scope: of the toolbox whose pipelines do so. Default: ``None``.
    """
    name = "LoadImageFromFile"
    TRANSFORMS.register_module(name, force=True, module=NamedLoadImageFromFile)
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        # mmpretrain has mmcv's once more in its own registry.
        if registry.get(name) is LoadImageFromFile:
            registry.register_module(name, force=True, module=NamedLoadImageFromFile)
        loader = registry.get("LoadAnnotations")
    if loader is not None and not hasattr(loader._load_seg_map, "__wrapped__"):
        loader._load_seg_map = _naming(loader._load_seg_map)


def _naming(load: Any) -> Any:
    @functools.wraps(load)
    def load_seg_map(self: Any, results: dict[str, Any]) -> None:
        try:
            load(self, results)
        except Exception as error:
            # OpenCV gives None for what it cannot decode, which has no squeeze().
            empty = isinstance(error, AttributeError) and "'NoneType'" in str(error)
            if not empty and not is_undecodable(error):
                raise
            raise _undecodable("label map", results["seg_map_path"]) from error
        _check_label_map(results)

    return load_seg_map


def _check_label_map(results: dict[str, Any]) -> None:
    labels, path = results.get("gt_seg_map"), results.get("seg_map_path")
    if not isinstance(labels, np.ndarray):
        return
    if labels.ndim > 2 and labels.shape[-1] > 1:
        raise ImageError(
            f"label map {path} has {labels.shape[-1]} channels; it must have one, of class "
            "numbers. Of equal channels write one; a picture of colours has to be translated; of "
            "a palette, imdecode_backend='pillow' reads the numbers"
        )
    if labels.dtype != np.uint8 or not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        header = file.read(_BITS_AT + 1)
    if header.startswith(_PNG) and header[_BITS_AT] > 8:
        largest = cv2.imread(path, cv2.IMREAD_UNCHANGED).max()
        if largest > _LARGEST_LABEL:
            raise ImageError(
                f"label map {path} has values up to {largest}, of which the loader keeps 8 bits; "
                "write the class numbers 0 to 254, and 255 for what is ignored"
            )


def _undecodable(what: str, path: str) -> ImageError:
    return ImageError(
        f"{what} {path} cannot be decoded: it is damaged, or no image; copy it again, or remove it "
        "from the data set"
    )
