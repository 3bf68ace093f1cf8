"""'Shapes': a small generated data set for three tasks, drawn at first use."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..errors import UserImportError

KINDS = ("ellipse", "rectangle", "triangle", "star", "cross")
PALETTE = [(220, 60, 60), (60, 160, 220), (240, 180, 40), (120, 200, 80), (180, 90, 210)]
SPLITS = {"train": 1200, "val": 100}
IMAGE_SIZE = 160
CROP_SIZE = 64
_SEED = 20260101
# A new shape that would leave less than this visible of another one is not drawn.
_MIN_VISIBLE_SHARE = 0.5
_MIN_VISIBLE_PIXELS = 40


class Style(NamedTuple):
    """How the objects of a split are drawn.

    Args:
        radii: from and to, in pixels; logarithms are uniform. Default: 11 to 40.
        turns: from and to, in radians; uniform. Default: any.
    """

    radii: tuple[float, float] = (11, 40)
    turns: tuple[float, float] = (0, 2 * np.pi)


def shapes_root() -> Path:
    """Where Shapes is cached: ``$XDG_CACHE_HOME/mmlearnconv/shapes``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mmlearnconv" / "shapes"


def make_shapes(
    root: str | Path | None = None,
    splits: Mapping[str, int] = SPLITS,
    styles: Mapping[str, Style] = MappingProxyType({}),
) -> Path:
    """Draw the data set unless it is there already; the same pixels on every machine.

    The folder gets ``{train,val}/*.png``, ``annotations/{train,val}.json`` (COCO instances: boxes,
    masks of the visible part as run lengths, crowds) and ``labels/{train,val}/*.png`` (label maps:
    0 background, 1 to 5 the kinds). It is drawn into a temporary folder, which is then renamed, so
    that the data set is either complete or absent.

    Args:
        root: the folder. Default: :func:`shapes_root`.
        splits: number of images per split. Default: 1200 in ``train``, 100 in ``val``.
        styles: how the objects of a split are drawn. Default: ``Style()`` for each.

    Returns:
        Path: the folder.

    Raises:
        FileExistsError: ``root`` exists but holds something else.
    """
    root = Path(root) if root is not None else shapes_root()
    if all((root / "annotations" / f"{split}.json").is_file() for split in splits):
        return root
    if root.exists():
        raise FileExistsError(
            f"{root} exists but holds no Shapes data set (annotations/{{train,val}}.json); "
            "name a folder that does not exist yet"
        )
    print_log(f"drawing the Shapes data set into {root}", logger="current")
    with _draft_of(root) as draft:
        for number, (split, count) in enumerate(splits.items()):
            style = styles.get(split, Style())
            _draw_split(draft, split, count, _SEED + number, style)
    return root


def make_shape_classes(root: str | Path | None = None, shapes: str | Path | None = None) -> Path:
    """Cut the objects out of Shapes, for classifiers, unless that was done already.

    The folder gets ``{train,val}/{ellipse,...}/*.png``: each object, without crowds, in a square of
    64 x 64 pixels whose side shows one and a quarter of the object's longer side.

    Args:
        root: the folder. Default: ``shapes_classes`` beside :func:`shapes_root`.
        shapes: the data set to cut from. Default: :func:`shapes_root`, drawn if need be.

    Returns:
        Path: the folder.

    Raises:
        FileExistsError: ``root`` exists but holds something else.
    """
    root = Path(root) if root is not None else shapes_root().parent / "shapes_classes"
    if all((root / "train" / kind).is_dir() for kind in KINDS):
        return root
    if root.exists():
        raise FileExistsError(
            f"{root} exists but holds no classes of Shapes (train/{KINDS[0]}, ...); name a folder "
            "that does not exist yet"
        )
    source = make_shapes(shapes)
    print_log(f"cutting the objects of {source} out into {root}", logger="current")
    with _draft_of(root) as draft:
        for path in (source / "annotations").glob("*.json"):
            _cut_split(source, draft, path.stem, json.loads(path.read_text()))
    return root


@contextmanager
def _draft_of(root: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``root`` at the end, unless another process was first."""
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(root)
    except OSError:
        if not (root / "train").is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@DATASETS.register_module()
def ShapesDataset(data_root: str | None = None, **kwargs: Any):  # noqa: N802
    """mmdet's ``CocoDataset`` over Shapes, drawing it into ``data_root`` first if need be."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError as error:
        raise UserImportError(
            "ShapesDataset needs mmdet: pip install 'mmlearnconv[det]'"
        ) from error
    metainfo = dict(classes=KINDS, palette=PALETTE)
    return CocoDataset(data_root=str(make_shapes(data_root)), metainfo=metainfo, **kwargs)


@DATASETS.register_module()
def ShapesSegDataset(data_root: str | None = None, **kwargs: Any):  # noqa: N802
    """mmseg's ``BaseSegDataset`` over Shapes, drawing it into ``data_root`` first if need be."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError as error:
        raise UserImportError(
            "ShapesSegDataset needs mmseg: pip install 'mmlearnconv[seg]'"
        ) from error
    metainfo = dict(classes=("background", *KINDS), palette=[(0, 0, 0), *PALETTE])
    return BaseSegDataset(
        data_root=str(make_shapes(data_root)),
        metainfo=metainfo,
        img_suffix=".png",
        seg_map_suffix=".png",
        **kwargs,
    )


@DATASETS.register_module()
def ShapesClsDataset(data_root: str | None = None, **kwargs: Any):  # noqa: N802
    """mmpretrain's ``CustomDataset`` over the objects of Shapes, cut out first if need be."""
    try:
        from mmpretrain.datasets import CustomDataset
    except ImportError as error:
        raise UserImportError(
            "ShapesClsDataset needs mmpretrain: pip install 'mmlearnconv[cls]'"
        ) from error
    root = str(make_shape_classes(data_root))
    return CustomDataset(data_root=root, metainfo=dict(classes=KINDS), **kwargs)


for _dataset in (ShapesDataset, ShapesSegDataset, ShapesClsDataset):
    _dataset.makes_its_data = True


def _draw_split(root: Path, split: str, count: int, seed: int, style: Style) -> None:
    for folder in (root / split, root / "labels" / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        image, labels, objects = draw_image(np.random.default_rng((seed, index)), style)
        name = f"{index:05d}.png"
        for path, pixels in (
            (root / split / name, image),
            (root / "labels" / split / name, labels),
        ):
            if not cv2.imwrite(str(path), pixels):
                raise OSError(f"{path} could not be written")
        images.append(dict(id=index, file_name=name, height=IMAGE_SIZE, width=IMAGE_SIZE))
        for kind, mask, crowd in objects:
            rows, columns = np.nonzero(mask)
            x, y = int(columns.min()), int(rows.min())
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=kind + 1,
                    bbox=[x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
                    area=int(mask.sum()),
                    segmentation=_run_lengths(mask),
                    iscrowd=int(crowd),
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(KINDS)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def _cut_split(source: Path, root: Path, split: str, content: dict[str, Any]) -> None:
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for kind in KINDS:
        (root / split / kind).mkdir(parents=True)
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        image = cv2.imread(str(source / split / files[annotation["image_id"]]))
        x, y, width, height = annotation["bbox"]
        half = 0.625 * max(width, height)
        # From the object's middle square to the whole of the small image.
        scale = CROP_SIZE / (2 * half)
        shift = np.array([x + width / 2, y + height / 2]) - half
        move = np.hstack([scale * np.eye(2), -scale * shift[:, None]])
        crop = cv2.warpAffine(
            image, move, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_REFLECT_101
        )
        path = root / split / KINDS[annotation["category_id"] - 1] / f"{annotation['id']:05d}.png"
        if not cv2.imwrite(str(path), crop):
            raise OSError(f"{path} could not be written")


def draw_image(
    rng: np.random.Generator, style: Style
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, np.ndarray, bool]]]:
    """One image (H, W, 3), its label map (H, W), and (kind, visible mask, crowd) per object."""
    image = _texture(rng)
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1)
    drawn: list[tuple[int, np.ndarray, bool]] = []

    def add(kind: int, mask: np.ndarray, crowd: bool) -> None:
        texture = _texture(rng)
        image[mask] = texture[mask]
        owner[mask] = len(drawn)
        drawn.append((kind, mask, crowd))

    if rng.random() < 0.1:
        # A crowd: a patch of small shapes of one kind that nobody would outline one by one.
        kind = int(rng.integers(len(KINDS)))
        centre = rng.uniform(30, IMAGE_SIZE - 30, 2)
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
        for _ in range(12):
            place = centre + rng.normal(0, 12, 2)
            mask |= _shape(kind, place, rng.uniform(4, 7), rng, style.turns)
        add(kind, mask, True)
    for _ in range(int(rng.integers(2, 6))):
        kind = int(rng.integers(len(KINDS)))
        radius = float(np.exp(rng.uniform(*np.log(style.radii))))
        mask = _shape(kind, rng.uniform(8, IMAGE_SIZE - 8, 2), radius, rng, style.turns)
        if mask.sum() < _MIN_VISIBLE_PIXELS or not _leaves_others_visible(mask, owner, drawn):
            continue
        add(kind, mask, False)
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    labels = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    objects = []
    for number, (kind, _, crowd) in enumerate(drawn):
        visible = owner == number
        labels[visible] = kind + 1
        objects.append((kind, visible, crowd))
    return image, labels, objects


def _leaves_others_visible(
    mask: np.ndarray, owner: np.ndarray, drawn: list[tuple[int, np.ndarray, bool]]
) -> bool:
    for number in np.unique(owner[mask]):
        if number >= 0:
            left = np.count_nonzero((owner == number) & ~mask)
            whole = np.count_nonzero(drawn[number][1])
            if left < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE_SHARE * whole):
                return False
    return True


def _texture(rng: np.random.Generator) -> np.ndarray:
    """A colour, soft blotches and stripes, as floats in about 0 to 255."""
    coarse = rng.normal(0, 1, (6, 6)).astype(np.float32)
    blotches = cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    stripes = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    pattern = rng.uniform(5, 30) * blotches + rng.uniform(0, 25) * stripes
    return rng.uniform(30, 225, 3) + pattern[..., None] * rng.uniform(0.6, 1, 3)


def _shape(
    kind: int,
    centre: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    turns: tuple[float, float],
) -> np.ndarray:
    """Mask of one shape, turned and stretched at random."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if KINDS[kind] == "ellipse":
        outline = np.stack([np.cos(angle), np.sin(angle)], 1)
    elif KINDS[kind] == "star":
        spikes = np.arange(10)
        reach = np.where(spikes % 2, 0.42, 1.0)
        outline = reach[:, None] * np.stack(
            [np.sin(spikes * np.pi / 5), np.cos(spikes * np.pi / 5)], 1
        )
    elif KINDS[kind] == "cross":
        a, b = 1.0, 0.32
        quarter = np.array([(b, a), (b, b), (a, b)])
        quarters = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
        outline = np.concatenate([quarter @ turn.T for turn in quarters])
    elif KINDS[kind] == "rectangle":
        outline = np.array([(1, 0.55), (-1, 0.55), (-1, -0.55), (1, -0.55)])
    else:
        turn = 2 * np.pi * np.arange(3) / 3
        outline = np.stack([np.cos(turn), np.sin(turn)], 1)
    turn, stretch = rng.uniform(*turns), rng.uniform(0.65, 1)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = outline * radius * (1, stretch) @ rotation.T + centre
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return mask.astype(bool)


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, starting with the zeros."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return dict(counts=[0, *runs] if flat[0] else runs, size=list(mask.shape))
