"""Draw what a model's layers learned, and where they look in images: pictures and one HTML page.

python tools/visualize.py MODEL [CHECKPOINT ...] --image PATH ... --out DIR [--point X,Y]

MODEL is a config or module:function, CHECKPOINT its weights (of several, e.g. of one run's epochs,
the last is drawn, and how positions moved over all of them). The page DIR/index.html needs no
network: click a place of an image to see where the network looks to compute its features.
"""

import argparse
import io
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from PIL import Image
from torch import nn

from mmlearnconv import cli
from mmlearnconv.analysis import SamplingPoints
from mmlearnconv.analysis.sampling import Call
from mmlearnconv.datasets import InputPipeline
from mmlearnconv.errors import UserValueError
from mmlearnconv.files import atomic_write
from mmlearnconv.visualization import (
    Picture,
    draw_layers,
    draw_log,
    draw_objects,
    draw_point,
    draw_positions,
    layers_to_show,
    size_for,
    write_page,
)

FRAME_MILLISECONDS = 400


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="config or module:function")
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="default: none")
    parser.add_argument("--out", required=True, help="folder for the page and the pictures")
    parser.add_argument("--image", nargs="+", help="files or folders; default: no image")
    parser.add_argument("--num-images", type=int, default=3, help="at most so many; default: 3")
    parser.add_argument(
        "--point",
        action="append",
        type=point,
        metavar="X,Y",
        help="column and row to look at, in shares of width and height; default: 0.5,0.5",
    )
    parser.add_argument(
        "--layer",
        nargs="+",
        help="layers whose features are looked at, as in named_modules; default: the last of each "
        "stage",
    )
    parser.add_argument(
        "--size", type=int, default=512, help="longer side that images get; default: 512"
    )
    parser.add_argument(
        "--ann-file",
        help="COCO annotations of --image: DK's offsets at the objects of all of them, by t-SNE",
    )
    parser.add_argument("--log", help="scalars.json of a run with LearnableConvStatsHook")
    cli.add_cfg_options(parser)
    cli.add_trust_option(parser)
    return parser.parse_args()


def point(text: str) -> tuple[float, float]:
    """Column and row as shares."""
    values = tuple(float(value) for value in text.split(","))
    if len(values) != 2 or not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: must be two numbers from 0 to 1, like 0.5,0.5")
    return values


def looks(
    model: nn.Module, pipeline: InputPipeline, args: argparse.Namespace
) -> Iterator[tuple[dict[str, Call], list[cli.Box]]]:
    """What each layer got from each annotated image, and the image's objects."""
    if not args.image:
        raise UserValueError("--ann-file needs --image")
    files = cli.find_images("--image", args.image, pipeline.load)
    boxes = cli.find_boxes("--ann-file", args.ann_file, files)
    for file, found in groupby(boxes, key=lambda box: box.image):
        image = pipeline.load(file)
        pixels = pipeline.tensor(image, size_for(image.pixels, args.size))
        yield SamplingPoints(model, pixels).calls, list(found)


def side_by_side(name: str, frames: list[Picture], out: Path) -> None:
    """An animation, a frame per checkpoint."""
    images = [Image.open(io.BytesIO(frame.png)).convert("RGB") for frame in frames]
    with atomic_write(out / f"{name}.gif") as file:
        options = dict(append_images=images[1:], duration=FRAME_MILLISECONDS, loop=0)
        images[0].save(file, format="GIF", save_all=True, **options)


@cli.one_sentence
def main() -> None:
    args = parse_args()
    out = Path(args.out)
    if args.size < 32:
        raise UserValueError(f"--size {args.size}: must be 32 or more")
    if args.num_images < 1:
        raise UserValueError(f"--num-images {args.num_images}: must be 1 or more")
    checkpoints = args.checkpoints or [None]
    if args.log and not Path(args.log).is_file():
        raise FileNotFoundError(f"--log {args.log}: does not exist")
    frames: dict[str, list[Picture]] = {}
    for checkpoint in checkpoints:
        model, cfg = cli.build_model(
            args.model, checkpoint, args.cfg_options, args.trust_checkpoint
        )
        for picture in draw_positions(model) if len(checkpoints) > 1 else []:
            frames.setdefault(picture.name, []).append(picture)
    pipeline = InputPipeline(cfg, model)
    files = []
    if args.image:
        files = cli.find_images("--image", args.image, pipeline.load, args.num_images)
    pictures = [draw_log(Path(args.log))] if args.log else []
    photographs = []
    for title, file in zip(cli.distinct(file.stem for file in files), files, strict=True):
        loaded = pipeline.load(file)
        image = loaded.picture
        pixels = pipeline.tensor(loaded, size_for(image, args.size))
        looked = SamplingPoints(model, pixels, args.layer or ())
        layers = args.layer or layers_to_show(model, looked)
        if not layers:
            raise UserValueError(f"{args.model}: has no convolution larger than 1x1 that runs")
        photographs.append((title, image, looked, layers))
        for x, y in args.point or [(0.5, 0.5)]:
            name = f"sampling_{title}_{x:g}_{y:g}"
            pictures.append(draw_point(looked, layers, image, (x, y), name))
    if args.ann_file:
        pictures += draw_objects(model, looks(model, pipeline, args))
    first = photographs[0] if photographs else None
    pictures += draw_layers(model, *((first and (first[2].calls, first[1])) or ()))
    if not pictures:
        raise UserValueError(f"{args.model}: nothing to draw without --image and --log")
    out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        with atomic_write(out / f"{picture.name}.png") as file:
            file.write_bytes(picture.png)
    for name, found in frames.items():
        side_by_side(name, found, out)
    title = Path(args.model.rpartition(":")[2]).stem
    write_page(out / "index.html", f"What {title} learned", pictures, photographs)
    size = (out / "index.html").stat().st_size / 1e6
    print(f"{len(pictures)} pictures and {len(frames)} animations in {out}; open {out}/index.html")
    print(f"({size:.1f} MB)")


if __name__ == "__main__":
    main()
