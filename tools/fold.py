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
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmlearnconv import cli, engine
from mmlearnconv.layers import LearnableConv
from mmlearnconv.surgery import fold_convs, folded_config
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


def load(args: argparse.Namespace) -> tuple[nn.Module, Any, Config, dict[str, Any]]:
    """The model, the function that runs it on an image, its config, the checkpoint's meta data."""
    if args.image is not None and not Path(args.image).is_file():
        raise FileNotFoundError(f"{args.image} does not exist")
    cfg = cli.read_config(args.config, args.cfg_options)
    engine.enforce_weights_only(args.trust_checkpoint)
    checkpoint = engine.load_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
    scope = cfg.get("default_scope")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if scope == "mmdet":
        from mmdet.apis import inference_detector as run
        from mmdet.apis import init_detector as build
    elif scope == "mmseg":
        from mmseg.apis import inference_model as run
        from mmseg.apis import init_model as build
    elif scope == "mmpretrain":
        from mmpretrain.apis import ImageClassificationInferencer
        from mmpretrain.apis import init_model as build

        def run(model: nn.Module, image: Any) -> Any:
            return ImageClassificationInferencer(model)(image)[0]
    else:
        raise ValueError(f"default_scope: {scope!r}; must be 'mmdet', 'mmseg' or 'mmpretrain'")
    init_default_scope(scope)
    model = build(copy.deepcopy(cfg), args.checkpoint, device=device)
    engine.load_whole(model, checkpoint, args.checkpoint)
    return model, run, cfg, checkpoint.get("meta", {})


def parts(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Backbone, neck and heads."""
    for parent, prefix in ((model, ""), (getattr(model, "roi_head", nn.Module()), "roi_head.")):
        yield from ((prefix + n, m) for n, m in parent.named_children() if "preproc" not in n)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().float()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors(item)]
    return []


def outputs(model: nn.Module, run: Any, image: Any) -> dict[str, list[Tensor]]:
    """Outputs of a model's parts when it runs on an image, and the scores of a detector."""
    given: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_hook(
            lambda _, __, output, name=name: given.setdefault(name, []).extend(tensors(output))
        )
        for name, part in parts(model)
    ]
    try:
        result = run(model, image)
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


def seconds(model: nn.Module, run: Any, image: Any) -> float:
    start = time.perf_counter()
    run(model, image)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@cli.one_sentence
def main() -> None:
    args = parse_args()
    try:
        model, run, cfg, meta = load(args)
        folded = fold_convs(copy.deepcopy(model), args.taps)
    except ValueError as error:
        sys.exit(f"error: {error}")
    count = sum(isinstance(m, LearnableConv) for m in model.modules())
    if count == 0:
        sys.exit(f"error: {args.config} builds a model without learnable convolutions")
    print(f"folded {count} convolutions")
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = args.image or noise
    difference, where = largest_difference(outputs(model, run, image), outputs(folded, run, image))
    print(f"largest relative difference on {args.image or 'noise'}: {difference:.1e}, of {where}")
    if math.isnan(difference):
        sys.exit(f"error: {where} gives NaN; is {args.checkpoint} of a run that diverged?")
    if difference > LARGEST_DIFFERENCE and args.taps != "rounded":
        sys.exit(f"error: more than {LARGEST_DIFFERENCE:g}; nothing written")
    pairs = [(seconds(model, run, image), seconds(folded, run, image)) for _ in range(3)]
    before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"time per image: {before * 1e3:.0f} ms before, {after * 1e3:.0f} ms after, "
        f"ratio {before / after:.2f}"
    )
    cfg, needs_package = folded_config(cfg, folded, args.taps)
    config = Path(args.out_dir) / Path(args.config).name
    weights = config.with_suffix(".pth")
    kept = {key: meta[key] for key in ("dataset_meta", "epoch", "iter") if key in meta}
    with engine.atomic_write(weights) as path:
        torch.save(dict(meta=kept, state_dict=folded.state_dict()), path)
    with engine.atomic_write(config) as path:
        cfg.dump(path)
    needs = "needs mmlearnconv" if needs_package else "does not need mmlearnconv"
    print(f"written: {config} and {weights}; the config {needs}")


if __name__ == "__main__":
    main()
