"""Effective receptive fields of models, side by side: a table and pictures.

python tools/receptive_field.py MODEL [MODEL ...] --out DIR [--images PATH ...] [--ann-file FILE]

MODEL is a config or module:function. The table has, for 20, 30, 50 and 99 % of the contribution,
the smallest square about the centre that holds it, as RepLKNet's analyze_erf prints: side in pixels
and share of the area. An interrupted run goes on where it was.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from mmlearnconv import cli
from mmlearnconv.analysis import areas, centred, contribution, input_channels
from mmlearnconv.datasets import InputPipeline
from mmlearnconv.engine import load_checkpoint
from mmlearnconv.errors import UserValueError
from mmlearnconv.files import atomic_write

SAVE_EVERY = 10  # images


class Place(NamedTuple):
    """An image, or a random one's seed, and a point of it in shares of its height and width."""

    image: Path | int
    point: tuple[float, float]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="config or module:function")
    parser.add_argument("--out", required=True, help="folder for the table and the pictures")
    parser.add_argument(
        "--checkpoint", nargs="+", help="weights, one per model; '-' for none; default: none"
    )
    parser.add_argument(
        "--layer", help="name of a module, as in named_modules; default: the backbone, or the model"
    )
    parser.add_argument("--images", nargs="+", help="files or folders; default: random images")
    parser.add_argument(
        "--ann-file", help="COCO annotations of the images: look at the centres of their boxes"
    )
    parser.add_argument("--num-images", type=int, default=50, help="at most so many; default: 50")
    parser.add_argument(
        "--size", type=int, default=512, help="height and width that images get; default: 512"
    )
    cli.add_cfg_options(parser)
    cli.add_trust_option(parser)
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    if args.num_images < 1:
        raise UserValueError(f"--num-images {args.num_images}: must be 1 or more")
    if args.size < 8:
        raise UserValueError(f"--size {args.size}: must be 8 or more")
    if args.images is None and args.ann_file:
        raise UserValueError("--ann-file needs --images")
    if args.checkpoint and len(args.checkpoint) != len(args.models):
        raise UserValueError(
            f"--checkpoint: {len(args.checkpoint)} for {len(args.models)} models; must be as many"
        )


def find_places(args: argparse.Namespace, pipeline: InputPipeline) -> list[Place]:
    """The points to look at: the centre of each image, or those of its objects."""
    centre = 0.5, 0.5
    if args.images is None:
        return [Place(seed, centre) for seed in range(args.num_images)]
    files = cli.find_images("--images", args.images, pipeline.load, args.num_images)
    if args.ann_file is None:
        return [Place(file, centre) for file in files]
    boxes = cli.find_boxes("--ann-file", args.ann_file, files)
    return [Place(box.image, box.centre) for box in boxes]


def load_image(place: Place, size: int, pipeline: InputPipeline, channels: int) -> Tensor:
    """``(channels, size, size)``, as the model takes it."""
    if isinstance(place.image, int):
        generator = torch.Generator().manual_seed(place.image)
        return torch.randn(channels, size, size, generator=generator)
    return pipeline.tensor(pipeline.load(place.image), (size, size))


def measure(
    model: nn.Module,
    pipeline: InputPipeline,
    layer: nn.Module | None,
    places: list[Place],
    size: int,
    state_file: Path,
    key: str,
) -> Tensor:
    """The mean contribution over all places; what was done before is read from the state file."""
    total, done = torch.zeros(size, size, dtype=torch.double), 0
    if state_file.exists():
        state = load_checkpoint(state_file)
        if state.get("key") == key:
            total, done = state["total"], state["done"]
    channels = input_channels(model, (size, size))
    bar = ProgressBar(len(places) - done, file=sys.stderr) if done < len(places) else None
    for i in range(done, len(places)):
        point = places[i].point[0] * size, places[i].point[1] * size
        scores = contribution(model, load_image(places[i], size, pipeline, channels), layer, point)
        total += centred(scores.cpu().double(), point)
        bar.update()
        if (i + 1) % SAVE_EVERY == 0 or i + 1 == len(places):
            with atomic_write(state_file) as temporary:
                torch.save(dict(key=key, total=total, done=i + 1), temporary)
    if bar is not None:
        print(file=sys.stderr)
    return total / len(places)


def stamp(path: str) -> list[str | float]:
    """What tells a file from an earlier one of its name."""
    file = Path(path)
    return [path, file.stat().st_mtime, file.stat().st_size] if file.is_file() else [path]


def draw(fields: dict[str, Tensor], path: Path) -> None:
    """One panel per model, each relative to its largest value."""
    figure, axes = plt.subplots(
        1, len(fields), figsize=(4 * len(fields) + 1, 4), squeeze=False, layout="constrained"
    )
    logs = {name: (scores + 1).log10() for name, scores in fields.items()}
    for axis, (name, scores) in zip(axes[0], logs.items(), strict=True):
        shares = (scores / scores.max().clamp_min(1e-30)).numpy()
        picture = axis.imshow(shares, cmap="YlGn", vmin=0, vmax=1)
        axis.set(title=name, xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, ax=list(axes[0]), label="log10(contribution + 1), largest = 1")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


@cli.one_sentence
def main() -> None:
    args = parse_args()
    check(args)
    checkpoints = args.checkpoint or ["-"] * len(args.models)
    places: list[Place] = []
    out = Path(args.out)
    fields, table = {}, {}
    names = cli.distinct(Path(model.rpartition(":")[2]).stem for model in args.models)
    for name, spec, file in zip(names, args.models, checkpoints, strict=True):
        checkpoint = None if file == "-" else file
        torch.manual_seed(0)
        model, cfg = cli.build_model(spec, checkpoint, args.cfg_options, args.trust_checkpoint)
        model.requires_grad_(False)
        pipeline = InputPipeline(cfg, model)
        # The first model's images are those of all.
        places = places or find_places(args, pipeline)
        modules = dict(model.named_modules())
        if args.layer is not None and args.layer not in modules:
            raise UserValueError(f"--layer {args.layer}: is no module of {spec}")
        layer = None if args.layer is None else modules[args.layer]
        key = json.dumps(
            [stamp(spec), stamp(file), args.layer, args.size, args.cfg_options]
            + [str(place) for place in places]
        )
        print(f"{name}: {len(places)} points", file=sys.stderr)
        out.mkdir(parents=True, exist_ok=True)
        state_file = out / f"{name}.state.pt"
        fields[name] = measure(model, pipeline, layer, places, args.size, state_file, key)
        table[name] = areas(fields[name])
    draw(fields, out / "receptive_field.png")
    with atomic_write(out / "receptive_field.json") as temporary:
        found = {name: [a and a._asdict() for a in row] for name, row in table.items()}
        temporary.write_text(json.dumps(found, indent=1))
    print("| model | 20 % | 30 % | 50 % | 99 % |\n| --- | --- | --- | --- | --- |")
    for name, row in table.items():
        cells = ["none" if a is None else f"{a.side} ({100 * a.ratio:.1f} %)" for a in row]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"side in pixels (share of the area) of {args.size} x {args.size}; pictures in {out}")


if __name__ == "__main__":
    main()
