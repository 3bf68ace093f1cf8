"""Accuracy on Shapes by initialisation: ``python benchmarks/learning.py QUESTION``.

``dcls_start``: the quickstart with DCLS elements from N(0, 0.5), or on the largest cells of a drawn
plain kernel. ``dke_alpha``: DKE in the last two stages of a trained plain network, fine-tuned with
alpha left at 10, annealed to 2, and, for comparison, without DKE. A finished run's result is kept
in its work directory, so that a second call only prints.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmlearnconv.datasets import make_shapes
from mmlearnconv.files import atomic_write

QUICKSTART = Path(__file__).resolve().parents[1] / "configs/quickstart_mask_rcnn_dcls.py"
METRICS = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50")
# Shorter than the quickstart, so that a seed takes minutes on one core.
FROM_SCRATCH, PRETRAINING, FINE_TUNING = 400, 500, 200


def quickstart(iterations: int, seed: int, conv_cfg: dict | None) -> Config:
    """The quickstart's config, its schedule scaled to ``iterations``."""
    cfg = Config.fromfile(QUICKSTART)
    cfg.model.backbone.conv_cfg = conv_cfg
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.param_scheduler[1].end = iterations
    cfg.default_hooks.checkpoint.interval = iterations
    cfg.randomness = dict(seed=seed)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def dcls_start(kind: str, seed: int, out: Path) -> Config:
    """The quickstart with one of the two initialisations of the positions."""
    return quickstart(FROM_SCRATCH, seed, dict(type="DCLS", position_init=kind))


def dke_alpha(kind: str, seed: int, out: Path) -> Config:
    """Fine-tuning of one plain network, with DKE unless ``kind`` is ``'plain'``."""
    trained = out / "pretraining"
    measured(quickstart(PRETRAINING, 0, None), trained)
    cfg = quickstart(FINE_TUNING, seed, None)
    cfg.load_from = str(trained / f"iter_{PRETRAINING}.pth")
    cfg.optim_wrapper.optimizer.lr /= 4
    if kind != "plain":
        swap = dict(pattern="backbone.layer[34].*.conv2", conv=dict(type="DKE"))
        cfg.model.update(type="SwapConv", target=cfg.model.type, swaps=[swap])
    if kind == "annealed":
        hook = dict(type="AlphaAnnealingHook", end=FINE_TUNING // 2, by_epoch=False)
        cfg.custom_hooks = [hook]
    return cfg


def measured(cfg: Config, out: Path) -> dict[str, float]:
    """Train and evaluate, unless that was done before; return the metrics."""
    result = out / "metrics.json"
    if not result.is_file():
        cfg.work_dir = str(out)
        cfg.experiment_name = str(out).replace("/", "_")
        runner = Runner.from_cfg(cfg)
        runner.train()
        found = {m: runner.message_hub.get_scalar(f"val/coco/{m}").current() for m in METRICS}
        with atomic_write(result) as path:
            path.write_text(json.dumps(found))
    return json.loads(result.read_text())


QUESTIONS = {
    "dcls_start": (dcls_start, ("normal", "grid")),
    "dke_alpha": (dke_alpha, ("constant", "annealed", "plain")),
}


def main() -> None:
    """Run what is missing, then print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--kinds", nargs="+", help="some of the question's kinds; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/learning"))
    args = parser.parse_args()
    make_shapes()
    config_of, kinds = QUESTIONS[args.question]
    lines = [f"| {args.question} | {' | '.join(METRICS)} |", "| --- " * (len(METRICS) + 1) + "|"]
    for kind in args.kinds or kinds:
        runs = []
        for seed in args.seeds:
            torch.manual_seed(seed)
            cfg = config_of(kind, seed, args.out)
            runs.append(measured(cfg, args.out / args.question / f"{kind}-{seed}"))
        columns = [[run[m] for run in runs] for m in METRICS]
        cells = [f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
