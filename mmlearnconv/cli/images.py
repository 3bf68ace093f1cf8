"""Images that a command line names."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import scandir

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


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
