"""What an operator would cost in a model of yours, before you train it.

python tools/compare.py CONFIG [--conv DCLS DK ...] [--where PATTERN] [--size HEIGHT WIDTH]

For the config's model, plain and with each operator: convolutions replaced, parameters and
multiply-adds of one image, time on this machine of a training step (losses, backward pass and SGD
for two random images) and of inference on one, peak memory of the step beyond the model, the
largest relative error of a kernel that took over plain weights, and whether the operator folds.
Operators are put in by the backbone's conv_cfg, or with --where by a swap.
"""

import argparse
import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmlearnconv import cli
from mmlearnconv.analysis import count_complexity
from mmlearnconv.analysis.cost import median_times, peak_memory
from mmlearnconv.catalog import operator_names, operator_of
from mmlearnconv.errors import UserError, UserValueError
from mmlearnconv.files import atomic_write
from mmlearnconv.layers import LearnableConv, takeover_errors
from mmlearnconv.models import without_learnable
from mmlearnconv.surgery import swap_convs

PLAIN = "plain"
# Relative error of a kernel in float32 that counts as none.
EXACT = 1e-6
HEAD = ["operator", "replaced", "parameters (M)", "multiply-adds (G)", "training step"]
HEAD += ["inference", "memory", "plain weights", "folds"]


@dataclass
class Row:
    """What one operator costs; times in milliseconds, memory in MB.

    ``reached`` counts replaced convolutions, ``error`` is the largest relative error of a kernel
    after it took over plain weights, ``None`` if that was refused.
    """

    operator: str
    reached: int
    parameters: int
    macs: int
    train: float
    inference: float
    memory: float
    error: float | None
    folds: str


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file of a detector or segmentor")
    parser.add_argument(
        "--conv",
        nargs="+",
        choices=operator_names(takes_over=False),
        metavar="TYPE",
        default=operator_names(baselines=False, takes_over=True),
        help=f"of {', '.join(operator_names(takes_over=False))}; default: the five of this package",
    )
    parser.add_argument(
        "--where",
        help="swap the convolutions larger than 1x1 whose names match this shell-style pattern, "
        "like 'backbone.layer[34].*'; default: set conv_cfg of the backbone",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(224, 320),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images; default: 224 320",
    )
    parser.add_argument("--rounds", type=int, default=1, help="turns of timing; default: 1")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_cfg_options(parser)
    return parser.parse_args()


def plain_model(cfg: Config) -> ConfigDict:
    """The config's model without learnable convolutions and without checkpoints to fetch."""
    model = without_learnable(copy.deepcopy(cfg.model))
    cli.forget_checkpoints(model)
    return model


def build(model: dict[str, Any]) -> nn.Module:
    """A model on random weights, without batch norms that need several processes."""
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy(model)))


def with_operator(
    plain: nn.Module, model: ConfigDict, operator: str, where: str | None
) -> tuple[nn.Module, float | None]:
    """The model with an operator, on the plain weights, and the largest error of a kernel.

    The error is ``None`` if the operator takes over no plain weights.

    Raises:
        ValueError: nothing was replaced, or the operator cannot replace a convolution.
    """
    if where is not None:
        changed = copy.deepcopy(plain)
        convs = [n for n, m in plain.named_modules() if isinstance(m, nn.Conv2d)]
        larger = [n for n in convs if max(plain.get_submodule(n).kernel_size) > 1]
        chosen = [name for name in larger if fnmatchcase(name, where)]
        if not chosen:
            raise UserValueError(f"--where {where}: matches none of {', '.join(larger[:5])}, ...")
        swap_convs(changed, [dict(pattern=chosen, conv=dict(type=operator))])
    else:
        own = copy.deepcopy(model)
        own.backbone.conv_cfg = dict(type=operator)
        try:
            changed = build(own)
        except TypeError as error:
            if cli.explain_refusal(error) is None:
                raise
            kind = model.backbone.type
            raise UserValueError(f"{kind} takes no conv_cfg; use --where 'backbone.*'") from error
        if not any(isinstance(m, LearnableConv) for m in changed.modules()):
            kind = model.backbone.type
            raise UserValueError(f"conv_cfg replaces nothing in {kind}; use --where 'backbone.*'")
    try:
        changed.load_state_dict(plain.state_dict(), strict=False)
    except (RuntimeError, ValueError):
        return changed, None
    return changed, max(takeover_errors(changed).values())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: dict[str, Any]) -> None:
    model.train()
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def infer(model: nn.Module, data: dict[str, Any]) -> None:
    model.eval()
    model(**data, mode="predict")


def measure(
    models: dict[str, nn.Module], errors: dict[str, float | None], cfg: Config, args: Any
) -> list[Row]:
    """The figures of models that lie side by side in memory."""
    device = torch.device(args.device)
    size = tuple(args.size)
    counts = {name: count_complexity(model, size) for name, model in models.items()}
    steps: dict[str, Callable[[], None]] = {}
    inferences: dict[str, Callable[[], None]] = {}
    for name, model in models.items():
        model.to(device)
        learned = [p for p in model.parameters() if p.requires_grad]
        # Nothing changes from step to step, whatever the losses are.
        optimizer = torch.optim.SGD(learned, lr=0)
        torch.manual_seed(0)
        batch = cli.random_inputs(model, cfg, size, True, images=2)
        steps[name] = partial(train, model, optimizer, batch)
        inferences[name] = partial(infer, model, cli.random_inputs(model, cfg, size, False))
    inference_times = median_times(inferences, args.rounds, repeats=2)
    # A step's first call, which is not timed.
    memory = {name: peak_memory(step, device) for name, step in steps.items()}
    train_times = median_times(steps, args.rounds, repeats=1, warm_up=False)
    rows = []
    for name, model in models.items():
        reached = sum(isinstance(m, LearnableConv) for m in model.modules())
        figures = counts[name].parameters, counts[name].macs, train_times[name]
        folds = "" if name == PLAIN else operator_of(name).folds
        rows.append(
            Row(name, reached, *figures, inference_times[name], memory[name], errors[name], folds)
        )
    return rows


def cells(row: Row, first: Row) -> list[str]:
    """A row of the table; times with their ratio to the plain model's."""
    error = "refused" if row.error is None else f"{row.error:.0e}"
    exact = row.error is not None and row.error < EXACT
    return [
        row.operator,
        str(row.reached),
        f"{row.parameters / 1e6:.2f}",
        f"{row.macs / 1e9:.2f}",
        f"{row.train:.0f} ({row.train / first.train:.2f}x)",
        f"{row.inference:.0f} ({row.inference / first.inference:.2f}x)",
        "unknown" if math.isnan(row.memory) else f"{row.memory:.0f}",
        "" if row is first else "exact" if exact else error,
        row.folds,
    ]


@cli.one_sentence
def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    MMLogger.get_instance("compare", log_level="ERROR")
    if min(args.size) < 32:
        raise UserValueError(f"--size {args.size[0]} {args.size[1]}: must be 32 or more")
    if args.rounds < 1:
        raise UserValueError(f"--rounds {args.rounds}: must be 1 or more")
    cfg = cli.read_config(args.config, args.cfg_options)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = plain_model(cfg)
    if args.where is None and "backbone" not in model:
        raise UserValueError(f"{args.config}: the model has no backbone; use --where PATTERN")
    if cfg.get("default_scope") == "mmseg" and "size" in (model.data_preprocessor or {}):
        # Else images are padded to the crop of the recipe.
        model.data_preprocessor.size = tuple(args.size)
        model.test_cfg = dict(mode="whole")
    # Set by the Runner, for components that change with the iteration.
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1))
    plain = build(model)
    models: dict[str, nn.Module] = {PLAIN: plain}
    errors: dict[str, float | None] = {PLAIN: 0.0}
    failures = {}
    for operator in args.conv:
        try:
            found, errors[operator] = with_operator(plain, model, operator, args.where)
            models[operator] = found
        except UserError as error:
            if len(args.conv) == 1 or str(error).startswith("--where"):
                raise
            failures[operator] = " ".join(str(error).split())
    rows = measure(models, errors, cfg, args)
    if args.json:
        with atomic_write(args.json) as file:
            found = [asdict(row) | dict(memory=_or_none(row.memory)) for row in rows]
            file.write_text(json.dumps(dict(rows=found, failures=failures), indent=1))
    table = [HEAD, ["---"] * len(HEAD), *(cells(row, rows[0]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |")
    for operator, message in failures.items():
        print(f"{operator}: {message}")
    where = torch.cuda.get_device_name() if args.device != "cpu" else "CPU"
    threads = f", {torch.get_num_threads()} threads" if where == "CPU" else ""
    print(f"images of {args.size[0]} x {args.size[1]}, {where}{threads}, PyTorch", end=" ")
    print(f"{torch.__version__}; times in ms, memory in MB beyond the model")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


if __name__ == "__main__":
    main()
