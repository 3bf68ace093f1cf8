"""Do the operators help? The same small models on Shapes with each of them, over several seeds.

python benchmarks/shapes.py TASK [--kinds K ...] [--seeds N ...] [--jobs N] [--out DIR]

``detection`` trains the quickstart's Mask R-CNN from scratch; all 3x3 convolutions of the
ResNet-18's last three stages are of one kind. ``finetuning`` trains the plain detector of the same
seed on, plain or with convolutions swapped, and ``segmentation`` an UPerNet on its backbone, whose
stem of other shapes starts from random weights.
``classification`` trains the backbone on single objects, cut out, and ``pretrained`` the detector
on its weights. Models train on objects that are upright to 20 degrees and have radii of 14 to 30
pixels. They are tested on new images of that kind and on such that training never had: any
rotation, radii of 10 to 14 or of 30 to 42 pixels. Every run is a
process of its own with one thread; what it found is kept, so that a second call runs what is
missing and prints.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import mkdir_or_exist
from torch import nn

from mmlearnconv import cli
from mmlearnconv.analysis import count_complexity
from mmlearnconv.datasets import Style, make_shape_classes, make_shapes, shapes_root
from mmlearnconv.datasets.shapes import CROP_SIZE, IMAGE_SIZE
from mmlearnconv.engine import check_pretrained
from mmlearnconv.files import atomic_write
from mmlearnconv.registry import CONV_LAYERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DETECTION = CONFIGS / "quickstart_mask_rcnn_dcls.py"
SEGMENTATION = CONFIGS / "_base_" / "upernet_shapes.py"
CLASSIFICATION = CONFIGS / "_base_" / "classifier_shapes.py"
SPLITS = dict(train=1200, val=200, rotated=200, smaller=200, larger=200)
UPRIGHT = math.radians(20)
STYLES = dict(
    train=Style((14, 30), (-UPRIGHT, UPRIGHT)),
    val=Style((14, 30), (-UPRIGHT, UPRIGHT)),
    rotated=Style((14, 30)),
    smaller=Style((10, 14), (-UPRIGHT, UPRIGHT)),
    larger=Style((30, 42), (-UPRIGHT, UPRIGHT)),
)
TESTS = dict(val="as trained", rotated="rotated", smaller="smaller", larger="larger")
ITERATIONS = dict(
    detection=300, segmentation=400, finetuning=150, classification=400, pretrained=300
)
LAYERS = "backbone.layer[234].*.conv[12]"
KINDS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "dilated": dict(type="DilatedConv2d"),
    "DCNv2": dict(type="DCNv2"),
    "CondConv": dict(type="CondConv"),
    "DCLS": dict(type="DCLS"),
    "DK": dict(type="DK"),
    "DKE": dict(type="DKE"),
    "CoC": dict(type="CoC"),
    "DRConv": dict(type="DRConv"),
}
# To find out why, by name only: what learns faster or slower, no choice between filters.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain-slow": None,
    "DK-fast": dict(type="DK", offset_lr_mult=1.0),
    "DKE-drawn": dict(type="DKE"),
    "DCNv2-slow": dict(type="DCNv2"),
    "CondConv-slow": dict(type="CondConv"),
    "DRConv-slow": dict(type="DRConv"),
    "DRConv-one-region": dict(type="DRConv", regions=1),
}
# Of parameters whose names contain the key.
_SWAPPED = [f"layer{s}.{b}.conv{c}." for s in (2, 3, 4) for b in (0, 1) for c in (1, 2)]
LEARNING_RATES: dict[str, dict[str, float]] = {
    "plain-slow": dict.fromkeys(_SWAPPED, 0.25),
    "DCNv2-slow": dict(conv_offset=0.1),
    "CondConv-slow": dict.fromkeys(_SWAPPED, 0.25),
    "DRConv-slow": dict.fromkeys(_SWAPPED, 0.25),
}
AFTER_SWAP = "finetuning", "segmentation"
# As conv_cfg builds it; a swap has an element per cell, to compute the same as the plain kernel.
DCLS_FROM_SCRATCH = dict(kernel_count=5, position_init="grid")
# From drawn positions, as DKE-drawn's, it has hardly begun to learn after so few iterations.
DKE_CLASSIFIER = dict(position_init="grid")
# With their names in the table; the first is shown for every test set.
METRICS = {
    "detection": dict(
        bbox_mAP="box AP",
        bbox_mAP_s="small",
        bbox_mAP_m="medium",
        bbox_mAP_l="large",
        segm_mAP="mask AP",
    ),
    "segmentation": dict(mIoU="mIoU"),
    "classification": {"accuracy/top1": "top-1"},
}
METRICS["finetuning"] = METRICS["pretrained"] = METRICS["detection"]
# Given in percent already.
PERCENT = "mIoU", "accuracy/top1"


@CONV_LAYERS.register_module()
class DilatedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with twice the dilation and padding."""

    def __init__(self, *args: Any, padding: Any = 0, dilation: Any = 1, **kwargs: Any) -> None:
        padding, dilation = ([2 * n for n in v] for v in (padding, dilation))
        super().__init__(*args, padding=padding, dilation=dilation, **kwargs)


class StepTime(Hook):
    """The median time of a training iteration."""

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.begun = time.process_time()

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.process_time() - self.begun)

    def before_train(self, runner: Runner) -> None:
        self.times: list[float] = []


def data_root(task: str) -> Path:
    """The data set of this benchmark, drawn at first use."""
    root = make_shapes(shapes_root().parent / "shapes_shifts", SPLITS, STYLES)
    if task == "classification":
        return make_shape_classes(root.with_name("shapes_shifts_classes"), root)
    return root


def trained(task: str, kind: str, seed: int, out: Path) -> str:
    """What a run of another task has trained.

    Raises:
        FileNotFoundError: it has not run.
    """
    path = folder_of(task, kind, seed, out) / f"iter_{ITERATIONS[task]}.pth"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: run {task} --kinds {kind} --seeds {seed} first")
    return str(path)


def folder_of(task: str, kind: str, seed: int, out: Path) -> Path:
    """Where a run keeps what it found."""
    return out / task / f"{kind}-{seed}"


def config(task: str, kind: str, seed: int, out: Path) -> Config:
    """What one run trains."""
    own = dict(segmentation=SEGMENTATION, classification=CLASSIFICATION)
    cfg = cli.read_config(str(own.get(task, DETECTION)))
    if task not in own:
        cfg.model.backbone.conv_cfg = None
    options = (KINDS | VARIANTS)[kind]
    if options is not None:
        conv = dict(options)
        if kind == "DCLS" and task not in AFTER_SWAP:
            conv.update(DCLS_FROM_SCRATCH)
        if kind == "DKE" and task == "classification":
            conv.update(DKE_CLASSIFIER)
        rule = dict(pattern=LAYERS, conv=conv, kernel_size=3)
        cfg.model.update(type="SwapConv", target=cfg.model.type, swaps=[rule])
    if rates := LEARNING_RATES.get(kind):
        keys = {key: dict(lr_mult=rate) for key, rate in rates.items()}
        cfg.optim_wrapper.paramwise_cfg.custom_keys = keys
    if task in AFTER_SWAP:
        cfg.load_from = trained("detection", "plain", seed, out)
    if task == "finetuning":
        cfg.optim_wrapper.optimizer.lr /= 4
    elif task == "pretrained":
        weights = trained("classification", kind, seed, out)
        cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=weights)
    last = ITERATIONS[task]
    cfg.train_cfg.max_iters = last
    cfg.param_scheduler[1].end = last
    cfg.default_hooks.checkpoint.interval = last
    cfg.randomness = dict(seed=seed)
    root = str(data_root(task))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = root
    cfg.work_dir = str(folder_of(task, kind, seed, out))
    cfg.experiment_name = f"{task}-{kind}-{seed}"
    return cfg


def on_split(cfg: Config, split: str) -> None:
    """Let tests run on this split."""
    if cfg.default_scope == "mmpretrain":
        cfg.test_dataloader.dataset.data_prefix = split
        return
    if cfg.default_scope == "mmseg":
        prefix = dict(img_path=split, seg_map_path=f"labels/{split}")
        cfg.test_dataloader.dataset.data_prefix = prefix
        return
    root = Path(cfg.test_dataloader.dataset.data_root)
    ann_file = root / "annotations" / f"{split}.json"
    cfg.test_dataloader.dataset.update(ann_file=str(ann_file), data_prefix=dict(img=f"{split}/"))
    cfg.test_evaluator.ann_file = str(ann_file)


def run(task: str, kind: str, seed: int, out: Path) -> None:
    """Train and test one model; its figures go to ``figures.json`` of its folder."""
    torch.set_num_threads(1)
    cfg = config(task, kind, seed, out)
    # Only tests, of every split.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    on_split(cfg, "val")
    found = figures(out, task, kind, seed)
    if "step" in found:
        cfg.load_from = trained(task, kind, seed, out)
    check_pretrained()
    runner = Runner.from_cfg(cfg)
    if "step" in found:
        runner.load_or_resume()
    else:
        size = CROP_SIZE if task == "classification" else IMAGE_SIZE
        counts = count_complexity(runner.model, (size, size))
        steps = StepTime()
        runner.register_hook(steps)
        runner.train()
        found.update(parameters=counts.parameters, macs=counts.macs)
        found["step"] = statistics.median(steps.times)
    for split in TESTS:
        if split in found:
            continue
        on_split(cfg, split)
        runner._test_loop = cfg.test_cfg
        runner._test_dataloader, runner._test_evaluator = cfg.test_dataloader, cfg.test_evaluator
        measured = runner.test()
        prefix = "coco/" if cfg.default_scope == "mmdet" else ""
        found[split] = {name: float(measured[prefix + name]) for name in METRICS[task]}
    with atomic_write(Path(cfg.work_dir) / "figures.json") as path:
        path.write_text(json.dumps(found))


def figures(out: Path, task: str, kind: str, seed: int) -> dict[str, Any]:
    """What a run has found so far."""
    path = folder_of(task, kind, seed, out) / "figures.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def last_loss(folder: Path) -> float:
    """The training loss, averaged over the last quarter of what was logged."""
    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return statistics.mean(losses[-(len(losses) // 4) :])


def run_missing(task: str, kinds: list[str], seeds: list[int], out: Path, jobs: int) -> None:
    """Run what has no result yet, each in a process of its own."""

    def start(kind: str, seed: int) -> str | None:
        folder = folder_of(task, kind, seed, out)
        if TESTS.keys() <= figures(out, task, kind, seed).keys():
            return None
        mkdir_or_exist(folder)
        print(f"{task} {kind} {seed} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, task, "--kinds", kind, "--seeds", str(seed)]
        with (folder / "console.log").open("w") as log:
            done = subprocess.run(
                [*command, "--out", str(out), "--one"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(OMP_NUM_THREADS="1"),
            )
        return None if done.returncode == 0 else f"{kind} {seed} failed: see {log.name}"

    # Seed by seed, so that a table can be read early.
    wanted = [(kind, seed) for seed in seeds for kind in kinds]
    with ThreadPoolExecutor(jobs) as pool:
        failures = [f for f in pool.map(lambda pair: start(*pair), wanted) if f]
    if failures:
        sys.exit("\n".join(failures))


def describe(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def percent(found: dict[str, Any], split: str, name: str) -> float:
    return found[split][name] * (1 if name in PERCENT else 100)


def show(task: str, kinds: list[str], seeds: list[int], out: Path) -> None:
    """The table: mean and standard deviation over the seeds.

    Where models start from another task's, it ends with the differences to plain of the same seed.
    """
    names = METRICS[task]
    first = next(iter(names))
    columns = [("val", name) for name in names] + [(split, first) for split in TESTS][1:]
    runs = {
        kind: {
            seed: found
            for seed in seeds
            if TESTS.keys() <= (found := figures(out, task, kind, seed)).keys()
        }
        for kind in kinds
    }
    # A size that a split has no object of has -1.
    columns = [
        (split, name)
        for split, name in columns
        if any(f[split][name] >= 0 for found in runs.values() for f in found.values())
    ]
    plain = runs.get("plain", {}) if task in (*AFTER_SWAP, "pretrained") else {}
    head = ["model", "seeds", "parameters (M)", "multiply-adds (G)", "step (s)", "last loss"]
    head += [f"{TESTS[split]}: {names[name]}" for split, name in columns]
    head += [f"{TESTS['val']}: {names[first]} over plain"] if plain else []
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|")
    for kind, found in runs.items():
        if not found:
            continue
        counts = next(iter(found.values()))
        step = statistics.median(f["step"] for f in found.values())
        row = [kind, str(len(found)), f"{counts['parameters'] / 1e6:.2f}"]
        loss = statistics.mean(last_loss(folder_of(task, kind, seed, out)) for seed in found)
        row += [f"{counts['macs'] / 1e9:.3f}", f"{step:.2f}", f"{loss:.2f}"]
        for split, name in columns:
            row.append(describe([percent(f, split, name) for f in found.values()]))
        if plain and kind != "plain":
            paired = [(f, plain[seed]) for seed, f in found.items() if seed in plain]
            row.append(
                describe([percent(f, "val", first) - percent(p, "val", first) for f, p in paired])
            )
        elif plain:
            row.append("")
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=METRICS)
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS | VARIANTS, default=list(KINDS), metavar="KIND"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; default: 1")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/shapes"))
    parser.add_argument("--print", action="store_true", help="run nothing; print what there is")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run(args.task, args.kinds[0], args.seeds[0], args.out)
        return
    if not args.print:
        data_root(args.task)
        run_missing(args.task, args.kinds, args.seeds, args.out, args.jobs)
    show(args.task, args.kinds, args.seeds, args.out)


if __name__ == "__main__":
    main()
