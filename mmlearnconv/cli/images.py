"""Images that a command line names."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.utils import scandir

from ..errors import UserError, UserValueError

#: Files of a folder that are images, also where they cannot be read.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def find_images(
    option: str, paths: Sequence[str], load: Callable[[Path], Any], most: int | None = None
) -> list[Path]:
    """The images that paths name; those of a folder sorted by name.

    Of a folder these are the files that end with :data:`SUFFIXES`, and all others that ``load``
    reads. How many files were passed over is printed.

    Args:
        option: the option that gave the paths, for errors.
        paths: files, and folders of them.
        load: reads a file, or raises a :class:`~mmlearnconv.errors.UserError`.
        most: only so many. Default: all.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: there is no image.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(path / name for name in scandir(str(path), recursive=True))
            for file in inside:
                if most is not None and len(files) >= most:
                    break
                is_image = file.suffix.lower() in SUFFIXES or _loads(load, file)
                (files if is_image else others).append(file)
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{option} {path}: does not exist")
    few = ", ".join([*(file.name for file in others[:5]), *["..."] * (len(others) > 5)])
    if not files:
        found = f"; found {few}" if others else ""
        raise UserValueError(f"{option} {' '.join(paths)}: no file that is read as an image{found}")
    if others:
        print(f"{option}: {len(others)} files are no images to this model: {few}", file=sys.stderr)
    return files[:most]


def _key(file: Path, names: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """The name that annotations have for a file, as parts of a path."""
    ends = [file.parts[start:] for start in range(len(file.parts))]
    alike = [name for name in names if name[-1] == file.name]
    return next((end for end in ends if end in names), alike[0] if len(alike) == 1 else ())


def distinct(names: Iterable[str]) -> Iterator[str]:
    """The names, those that came before with a number behind them."""
    used: set[str] = set()
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        used.add(own := name if name not in used else next(n for n in numbered if n not in used))
        yield own


def _loads(load: Callable[[Path], Any], file: Path) -> bool:
    try:
        load(file)
    except UserError:
        return False
    return True


class Box(NamedTuple):
    """An annotated object of an image.

    Args:
        image: the file.
        centre: row and column of the box's centre, in shares of the image's height and width.
        share: the box's share of the image's area.
        category: name of its class.
    """

    image: Path
    centre: tuple[float, float]
    share: float
    category: str


def find_boxes(option: str, ann_file: str, files: Sequence[Path]) -> list[Box]:
    """The objects that COCO annotations name in images.

    An image is found by the end of its path, as the annotations write it, or by its name alone
    where no other image of the annotations has it.

    Args:
        option: the option that gave the annotations, for errors.
        ann_file: file of annotations.
        files: the images.

    Raises:
        FileNotFoundError: there are no such annotations.
        ValueError: the file holds no annotations of COCO, or no box in any of the images.
    """
    if not Path(ann_file).is_file():
        raise FileNotFoundError(f"{option} {ann_file}: does not exist")
    boxes: dict[tuple[str, ...], list[tuple[tuple[float, float], float, str]]] = {}
    try:
        known = json.loads(Path(ann_file).read_text())
        sizes = {i["id"]: (i["file_name"], i["height"], i["width"]) for i in known["images"]}
        categories = {c["id"]: c["name"] for c in known["categories"]}
        for annotation in known["annotations"]:
            file_name, height, width = sizes[annotation["image_id"]]
            x, y, w, h = annotation["bbox"]
            centre = (y + h / 2) / height, (x + w / 2) / width
            box = centre, w * h / (height * width), categories[annotation["category_id"]]
            boxes.setdefault(Path(file_name).parts, []).append(box)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserValueError(
            f"{option} {ann_file}: are no annotations of COCO: {error!r}"
        ) from error
    found = [Box(file, *box) for file in files for box in boxes.get(_key(file, boxes), [])]
    if not found:
        raise UserValueError(f"{option} {ann_file}: has no box on any of {len(files)} images")
    return found
