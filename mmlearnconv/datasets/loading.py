"""Reading images, with the name of one that cannot be read."""

from typing import Any

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
            raise ImageError(
                f"image {results['img_path']} cannot be decoded: it is damaged, or no image; copy "
                "it again, or remove it from the annotations"
            ) from error


def name_unreadable_images() -> None:
    """Have pipelines name images that cannot be read, for the rest of the process."""
    TRANSFORMS.register_module("LoadImageFromFile", force=True, module=NamedLoadImageFromFile)
