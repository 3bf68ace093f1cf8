"""What DivergenceHook's check costs beside a training step of a ResNet-50 with each operator.

python benchmarks/divergence_hook.py [--rounds N] [--device cpu]

The step is a forward and backward pass of the backbone and AdamW, for two images of 224 x 320.
"""

import argparse
from types import SimpleNamespace

import torch
from mmdet.models.backbones import ResNet

from mmlearnconv.analysis.cost import median_times
from mmlearnconv.catalog import operator_names
from mmlearnconv.engine import DivergenceHook


def measure(name: str, rounds: int, device: str) -> dict[str, float]:
    """Milliseconds of a step and of a check."""
    model = ResNet(50, conv_cfg=dict(type=name)).to(device)
    images = torch.randn(2, 3, 224, 320, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    hook, runner = DivergenceHook(), SimpleNamespace(model=model, iter=0)
    hook.before_train(runner)

    def step() -> None:
        optimizer.zero_grad()
        sum(x.square().mean() for x in model(images)).backward()
        optimizer.step()

    def check() -> None:
        hook.after_train_iter(runner, 0)

    return median_times(dict(step=step, check=check), rounds, repeats=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print("| operator | step (ms) | check (ms) | check / step |\n| --- | --- | --- | --- |")
    for name in operator_names(baselines=False):
        times = measure(name, args.rounds, args.device)
        share = times["check"] / times["step"]
        print(f"| {name} | {times['step']:.0f} | {times['check']:.2f} | {share:.2%} |", flush=True)


if __name__ == "__main__":
    main()
