"""Fold a trained model's learnable convolutions into plain ones: checkpoint and config.

python tools/fold.py CONFIG CHECKPOINT OUT_DIR [--image FILE] [--taps exact|rounded]

Runs the model on the image before and after folding, prints the largest difference between the
outputs of its parts and the speed ratio, and writes OUT_DIR/<config's name>.py and .pth. The config
still needs this package if kernels grew, with --taps, or if it names other types of the package.
The last line of the output says whether it does.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmlearnconv import cli, engine
from mmlearnconv.analysis import input_channels
from mmlearnconv.datasets import InputPipeline, LoadedImage
from mmlearnconv.errors import UserValueError
from mmlearnconv.files import atomic_write
from mmlearnconv.layers import LearnableConv
from mmlearnconv.models import folded_config
from mmlearnconv.surgery import fold_convs
from mmlearnconv.surgery.fold import TAPS

LARGEST_DIFFERENCE = 1e-3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out_dir", help="folder for the folded config and checkpoint")
    parser.add_argument("--image", help="image to compare on; default: noise of 480x640")
    parser.add_argument(
        "--taps",
        choices=TAPS,
        help="fold depthwise DCLS layers into lists of taps, which need this package; 'rounded' "
        "also moves every element to its nearest cell; the printed difference shows the effect",
    )
    cli.add_cfg_options(parser)
    cli.add_trust_option(parser)
    return parser.parse_args()


def load(args: argparse.Namespace) -> tuple[nn.Module, Config, dict[str, Any]]:
    """The model, its config, the checkpoint's meta data."""
    if args.image is not None and not Path(args.image).is_file():
        raise FileNotFoundError(f"{args.image} does not exist")
    trust = args.trust_checkpoint
    model, cfg = cli.build_model(args.config, args.checkpoint, args.cfg_options, trust)
    if cfg is None:
        raise UserValueError(f"{args.config}: must be a config")
    meta = engine.load_checkpoint(args.checkpoint, trust=trust).get("meta", {})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return revert_sync_batchnorm(model).to(device), cfg, meta


def parts(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Backbone, neck and heads; of models in a model, as student and teacher are, those of each."""
    for parent, module in model.named_modules():
        if hasattr(module, "backbone") or parent.endswith("roi_head"):
            for name, part in module.named_children():
                if "preproc" not in name and not hasattr(part, "backbone"):
                    yield f"{parent}.{name}".lstrip("."), part


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().float()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors(item)]
    return []


def outputs(
    model: nn.Module, pipeline: InputPipeline, image: LoadedImage
) -> dict[str, list[Tensor]]:
    """Outputs of a model's parts when it runs on an image, and the scores of a detector."""
    given: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_hook(
            lambda _, __, output, name=name: given.setdefault(name, []).extend(tensors(output))
        )
        for name, part in parts(model)
    ]
    try:
        (result,) = run(model, pipeline.batch(image))
    finally:
        for hook in hooks:
            hook.remove()
    if "pred_instances" in result:
        given["scores"] = [result.pred_instances.scores.float()]
    return given


def largest_difference(
    before: dict[str, list[Tensor]], after: dict[str, list[Tensor]]
) -> tuple[float, str]:
    """The largest difference, relative to the largest value of the same map, and its part."""
    worst = (0.0, "any part")
    for name, values in before.items():
        others = after.get(name, [])
        if [v.shape for v in values] != [o.shape for o in others]:
            return float("inf"), f"{name}, whose outputs differ in number or shape"
        for a, b in zip(values, others, strict=True):
            if a.numel():
                scale = a.abs().max().item() or 1.0
                difference = (a - b).abs().max().item() / scale
                if not difference <= worst[0]:  # NaN, too.
                    worst = difference, name
    return worst


@torch.no_grad()
def run(model: nn.Module, batch: dict[str, Any]) -> Any:
    return model.test_step(batch)


def seconds(model: nn.Module, batch: dict[str, Any]) -> float:
    start = time.perf_counter()
    run(model, batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@cli.one_sentence
def main() -> None:
    args = parse_args()
    model, cfg, meta = load(args)
    folded = fold_convs(copy.deepcopy(model), args.taps)
    pipeline = InputPipeline(cfg)
    if args.image:
        image = pipeline.load(args.image)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (480, 640, input_channels(model)))
        image = pipeline.from_array(noise.astype(np.uint8))
    count = sum(isinstance(m, LearnableConv) for m in model.modules())
    if count == 0:
        sys.exit(f"error: {args.config} builds a model without learnable convolutions")
    print(f"folded {count} convolutions")
    before, after = outputs(model, pipeline, image), outputs(folded, pipeline, image)
    difference, where = largest_difference(before, after)
    print(f"largest relative difference on {args.image or 'noise'}: {difference:.1e}, of {where}")
    if math.isnan(difference):
        sys.exit(f"error: {where} gives NaN; is {args.checkpoint} of a run that diverged?")
    if difference > LARGEST_DIFFERENCE and args.taps != "rounded":
        sys.exit(f"error: more than {LARGEST_DIFFERENCE:g}; nothing written")
    pairs = [
        tuple(seconds(module, pipeline.batch(image)) for module in (model, folded))
        for _ in range(3)
    ]
    slow, fast = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"time per image: {slow * 1e3:.0f} ms before, {fast * 1e3:.0f} ms after, "
        f"ratio {slow / fast:.2f}"
    )
    cfg, needs_package = folded_config(cfg, folded, args.taps)
    config = Path(args.out_dir) / Path(args.config).name
    weights = config.with_suffix(".pth")
    kept = {key: meta[key] for key in ("dataset_meta", "epoch", "iter") if key in meta}
    with atomic_write(weights) as path:
        torch.save(dict(meta=kept, state_dict=folded.state_dict()), path)
    with atomic_write(config) as path:
        cfg.dump(path)
    needs = "needs mmlearnconv" if needs_package else "does not need mmlearnconv"
    print(f"written: {config} and {weights}; the config {needs}")


if __name__ == "__main__":
    main()
