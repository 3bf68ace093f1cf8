"""Draw what a trained model finds in images, folders of images or videos.

python tools/demo.py INPUT CONFIG CHECKPOINT --out DIR [--score 0.3] [--device cuda]

Detectors and segmentors, swapped and folded models too. Images are read as the config's test
pipeline reads them. DIR gets each under its own name (with .png behind it where its format cannot
be written), or the video as .mp4; and beside it, what was predicted: boxes, labels and scores as
.json, the labels of all pixels as .labels.png, the segments of panoptic models as .panoptic.png.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import ProgressBar

from mmlearnconv import cli
from mmlearnconv.datasets import InputPipeline, LoadedImage, unwrap_dataset
from mmlearnconv.engine import enforce_weights_only, load_checkpoint, load_whole
from mmlearnconv.errors import UserError, UserValueError
from mmlearnconv.files import atomic_write

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT", help="image, folder of images, or video")
    parser.add_argument("config", metavar="CONFIG", help="config file")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint file")
    parser.add_argument("--out", required=True, type=Path, help="folder for what is drawn")
    parser.add_argument(
        "--score", type=float, default=0.3, help="draw boxes of at least this score; default: 0.3"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    cli.add_cfg_options(parser)
    cli.add_trust_option(parser)
    return parser.parse_args()


class Model:
    """mmdet's or mmseg's inferencer, fed by the config's own test pipeline."""

    def __init__(self, cfg: Config, checkpoint: str, device: str, score: float) -> None:
        scope = cfg.get("default_scope", "mmdet")
        if scope not in ("mmdet", "mmseg"):
            raise UserValueError(
                f"CONFIG: default_scope is {scope!r}; what is drawn are detections and "
                "segmentations, of 'mmdet' and 'mmseg'"
            )
        self.pipeline = InputPipeline(cfg)
        # The inferencers know mmcv's loader alone; theirs is not used.
        dataset = unwrap_dataset(cfg.test_dataloader.dataset)
        cfg.test_dataloader.dataset = dataset
        dataset.pipeline = [dict(type="LoadImageFromFile")]
        options: dict[str, Any] = dict(weights=checkpoint, device=device, show_progress=False)
        # Backbones are not to be fetched: the checkpoint has their weights.
        cli.forget_checkpoints(cfg.model)
        segments = scope == "mmseg"
        kind = "SegLocalVisualizer" if segments else "DetLocalVisualizer"
        cfg.visualizer = dict(type=kind, name="demo")
        if segments:
            from mmseg.apis import MMSegInferencer

            self.inferencer = MMSegInferencer(cfg, **options)
            self.options: dict[str, Any] = {}
        else:
            from mmdet.apis import DetInferencer

            self.inferencer = DetInferencer(cfg, **options)
            self.options = dict(pred_score_thr=score)

    @torch.no_grad()
    def __call__(self, image: LoadedImage) -> tuple[np.ndarray, Any]:
        """The picture in RGB, and labels of pixels or a dict of boxes, labels and scores."""
        found = self.inferencer.model.test_step(self.pipeline.batch(image))
        pictures = self.inferencer.visualize(
            [image.picture], found, return_vis=True, **self.options
        )
        prediction = self.inferencer.postprocess(found, pictures)["predictions"]
        return pictures[0], prediction[0] if isinstance(prediction, list) else prediction


def save_prediction(prediction: Any, path: Path) -> None:
    """Labels as PNG, all else as JSON, beside the picture ``path``.

    More than 256 classes take 16 bits. Of panoptic predictions the segments are a PNG in COCO's
    panoptic format, whose colours are their ids.
    """
    if isinstance(prediction, np.ndarray):
        dtype = np.uint8 if prediction.max(initial=0) < 256 else np.uint16
        with atomic_write(path.with_name(path.name + ".labels.png")) as file:
            mmcv.imwrite(prediction.astype(dtype), str(file))
        return
    if isinstance(prediction, dict) and "panoptic_seg" in prediction:
        prediction = dict(prediction)
        segments = prediction.pop("panoptic_seg")
        with atomic_write(path.with_name(path.name + ".panoptic.png")) as file:
            mmcv.imwrite(np.ascontiguousarray(segments[..., ::-1]), str(file))
    with atomic_write(path.with_name(path.name + ".json")) as file:
        file.write_text(json.dumps(prediction))


def draw_images(model: Model, files: list[Path], root: Path, out: Path) -> list[str]:
    """Draw images; what those that cannot be read have to say."""
    failures = []
    bar = ProgressBar(len(files), file=sys.stderr)
    for path in files:
        bar.update()
        try:
            image = model.pipeline.load(path)
        except UserError as error:
            failures.append(str(error))
            continue
        picture, prediction = model(image)
        target = out / path.relative_to(root)
        if not cv2.haveImageWriter(str(target)):
            target = target.with_name(f"{target.name}.png")
        with atomic_write(target) as file:
            mmcv.imwrite(np.ascontiguousarray(picture[..., ::-1]), str(file))
        save_prediction(prediction, target)
    print(file=sys.stderr)
    return failures


def draw_video(model: Model, path: Path, out: Path) -> int:
    """Draw a video; how many frames it has.

    Raises:
        ValueError: the file is no video that OpenCV reads.
    """
    video = mmcv.VideoReader(str(path))
    if not video.opened or not video.width:
        raise UserValueError(f"{path}: could not be read as a video")
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{path.stem}.mp4"
    bar = ProgressBar(len(video), file=sys.stderr)
    predictions: list[Any] = []
    count = 0
    with atomic_write(target) as file, tempfile.TemporaryDirectory() as folder:
        writer = None
        for frame in video:
            count += 1
            # A file, so that the config's own loader reads it.
            mmcv.imwrite(frame, f"{folder}/frame.png")
            picture, prediction = model(model.pipeline.load(f"{folder}/frame.png"))
            if writer is None:
                size = picture.shape[1], picture.shape[0]
                writer = cv2.VideoWriter(
                    str(file), cv2.VideoWriter_fourcc(*"mp4v"), video.fps or 25, size
                )
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
            if not isinstance(prediction, np.ndarray):
                predictions.append(prediction)
            bar.update()
        if writer is None:
            raise UserValueError(f"{path}: has no frame")
        writer.release()
    if predictions:
        save_prediction(predictions, target)
    print(file=sys.stderr)
    return count


@cli.one_sentence
def main() -> None:
    args = parse_args()
    source = Path(args.input)
    failures: list[str] = []
    video = source.suffix.lower() in VIDEOS
    if not source.exists():
        raise FileNotFoundError(f"INPUT {source}: does not exist")
    root = source if source.is_dir() else source.parent
    if args.out.resolve() == root.resolve():
        raise UserValueError(f"--out {args.out}: is the folder of INPUT; name another one")
    checkpoint = load_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
    cfg = cli.read_config(args.config, args.cfg_options)
    enforce_weights_only(args.trust_checkpoint)
    model = Model(cfg, args.checkpoint, args.device, args.score)
    load_whole(model.inferencer.model, checkpoint, args.checkpoint)
    load = model.pipeline.load
    files = [] if video else cli.find_images("INPUT", [args.input], load)
    if video:
        print(f"{draw_video(model, source, args.out)} frames in {args.out}/{source.stem}.mp4")
    else:
        failures = draw_images(model, files, root, args.out)
        print(f"{len(files) - len(failures)} of {len(files)} images in {args.out}")
    if failures:
        sys.exit("error: " + "\n".join(failures))


if __name__ == "__main__":
    main()
