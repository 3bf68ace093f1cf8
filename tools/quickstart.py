"""Train, evaluate and draw the small Mask R-CNN of configs/quickstart_mask_rcnn_dcls.py."""

import argparse
import platform
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import mmcv
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmlearnconv
from mmlearnconv.datasets import make_shapes

ROOT = Path(__file__).resolve().parents[1]
CONFIG = Path("configs") / "quickstart_mask_rcnn_dcls.py"
PICTURES = 8


class Story:
    """Prints progress lines with the time since the start."""

    def __init__(self, seconds_so_far: float) -> None:
        self.start = time.monotonic() - seconds_so_far
        # Still the terminal while sys.stdout is redirected to a file.
        self.out = sys.stdout

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:4.0f} s] {text}", file=self.out, flush=True)


class Progress(Hook):
    """Prints the progress of the training: iterations done, loss, time left."""

    def __init__(self, say: Story, lines: int = 15) -> None:
        self.say = say
        self.lines = lines

    def before_train(self, runner: Runner) -> None:
        self.begun = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done, all_ = runner.iter + 1, runner.max_iters
        if done != 10 and done % max(1, all_ // self.lines) and done != all_:
            return
        left = (time.monotonic() - self.begun) / done * (all_ - done)
        loss = runner.message_hub.get_scalar("train/loss").mean(10)
        self.say(f"training {done:4d} of {all_}, loss {loss:.2f}, {left:3.0f} s left")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for checkpoint, logs and pictures")
    parser.add_argument("--iterations", type=int, help="train for this many iterations instead")
    parser.add_argument("--seconds-so-far", type=float, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def train(cfg: Config, say: Story) -> tuple[Runner, dict[str, float]]:
    """Train and evaluate."""
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Progress(say), priority="VERY_LOW")
    runner.train()
    hub = runner.message_hub
    names = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "segm_mAP", "segm_mAP_50", "segm_mAP_75")
    return runner, {name: hub.get_scalar(f"val/coco/{name}").current() for name in names}


def draw(runner: Runner, folder: Path) -> list[Path]:
    """Predictions over the first validation images, large enough to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    visualizer = runner.visualizer
    visualizer.dataset_meta = runner.val_dataloader.dataset.metainfo
    runner.model.eval()
    written = []
    for batch in runner.val_dataloader:
        with torch.no_grad():
            (sample,) = runner.model.val_step(batch)
        name = Path(sample.img_path).stem
        image = mmcv.imread(sample.img_path, channel_order="rgb")
        visualizer.add_datasample(name, image, sample, draw_gt=True, pred_score_thr=0.5)
        drawn = cv2.resize(visualizer.get_image(), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        path = folder / f"{name}.png"
        mmcv.imwrite(drawn[..., ::-1], str(path))
        written.append(path)
        if len(written) == PICTURES:
            break
    return written


def main() -> None:
    args = parse_args()
    say = Story(args.seconds_so_far)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    say(
        f"mmlearnconv {mmlearnconv.__version__}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__} on {device}, {torch.get_num_threads()} threads"
    )
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.work_dir = str(args.output)
    cfg.default_hooks.logger.interval = 10
    cfg.randomness = dict(seed=0)
    if args.iterations:
        cfg.merge_from_dict(
            {
                "train_cfg.max_iters": args.iterations,
                "train_cfg.val_interval": args.iterations,
                "default_hooks.checkpoint.interval": args.iterations,
            }
        )
    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "console.log"
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        root = make_shapes(cfg.data_root)
    say(f"data: Shapes in {root}, 1200 images to train on and 100 to test on")
    say("model: Mask R-CNN, ResNet-18 of half width with DCLS, FPN, from random weights")
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            runner, metrics = train(cfg, say)
            pictures = draw(runner, args.output / "pictures")
        except Exception:
            traceback.print_exc()
            say(f"failed: {traceback.format_exc(limit=-1).strip()}\nThe full log is in {log}")
            sys.exit(1)
    say(f"tested on {len(runner.val_dataloader.dataset)} images that it did not train on:")
    print("\n             AP    AP50    AP75")
    for kind, name in (("boxes", "bbox"), ("masks", "segm")):
        row = (metrics[f"{name}_mAP{end}"] for end in ("", "_50", "_75"))
        print(f"    {kind}  " + "  ".join(f"{value:6.3f}" for value in row))
    checkpoint = args.output / f"iter_{runner.max_iters}.pth"
    print()
    say(f"{len(pictures)} pictures, ground truth left, predictions right: {pictures[0].parent}/")
    python = Path(sys.executable)
    activate = (
        f"    source {python.parent}/activate\n" if (python.parent / "activate").exists() else ""
    )
    print(
        f"\nNext:\n{activate}"
        f"    python tools/test.py {CONFIG} {checkpoint}\n"
        f"    python tools/train.py configs/mask_rcnn_dcls_convnext_t.py --data-root YOUR_COCO\n"
        "    and conv_cfg=dict(type='DCLS') in a config of yours: see README.md"
    )


if __name__ == "__main__":
    main()
