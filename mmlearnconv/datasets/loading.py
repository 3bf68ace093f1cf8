"""Reading images and label maps, with the name of one that cannot be read."""

import functools
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS


class ImageError(OSError):
    """A file that is no image, or a damaged one."""


class NamedLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` whose errors name the file.

    Raises:
        ImageError: the file cannot be decoded.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Read the image of ``img_path``."""
        try:
            return super().transform(results)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _undecodable("image", results["img_path"]) from error


def name_unreadable_images(scope: str | None = None) -> None:
    """Have pipelines name images and label maps that cannot be read, in the rest of the process.

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
        except FileNotFoundError:
            raise
        except (AttributeError, OSError, cv2.error) as error:
            # OpenCV gives None for what it cannot decode, which has no squeeze().
            raise _undecodable("label map", results["seg_map_path"]) from error

    return load_seg_map


def _undecodable(what: str, path: str) -> ImageError:
    return ImageError(
        f"{what} {path} cannot be decoded: it is damaged, or no image; copy it again, or remove it "
        "from the data set"
    )
