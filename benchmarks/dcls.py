"""DCLS layer against the authors' package and a plain depthwise 7x7, forward and backward.

python benchmarks/dcls.py [--json FILE] [--rounds N]

Every row is one process's medians, the contenders taking turns, so that their ratios hold when the
machine's speed drifts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from DCLS.construct.modules import Dcls2d
from torch import nn

from mmlearnconv.layers import DCLSConv2d

# Channels, rows, columns: the first and last stage of ConvNeXt-T on an 800 x 1216 image.
SIZES = [(96, 200, 304), (768, 25, 38)]
WINDOW, COUNT = 17, 34


def contenders(channels: int) -> dict[str, nn.Module]:
    ours = DCLSConv2d(channels, channels, 7, padding=3, groups=channels)
    package = Dcls2d(
        channels,
        channels,
        kernel_count=COUNT,
        padding=WINDOW // 2,
        dilated_kernel_size=WINDOW,
        groups=channels,
        version="v0",
    )
    plain = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
    return {"ours": ours, "package dcls": package, "plain 7x7": plain}


def forward(module: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: torch.Tensor) -> None:
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(torch.ones_like(y))


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, the calls in turn, each turn with a call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(3):
                begun = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, milliseconds")
    print(f"{'size':>14} {'input':>14} {'work':>16} {'ours':>8} {'package':>8} {'plain 7x7':>10}")
    rows = []
    for channels, height, width in SIZES:
        modules = contenders(channels)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(1, channels, height, width).contiguous(memory_format=memory_format)
            for work in (forward, forward_backward):
                calls = {name: partial(work, m, x) for name, m in modules.items()}
                medians = measure(calls, args.rounds)
                layout = str(memory_format).removeprefix("torch.").removesuffix("_format")
                size = f"{channels}x{height}x{width}"
                rows.append(dict(size=size, input=layout, work=work.__name__, **medians))
                ours, package, plain = medians.values()
                print(
                    f"{size:>14} {layout:>14} {work.__name__:>16} {ours:8.1f} {package:8.1f} "
                    f"{plain:10.1f}   package/ours {package / ours:5.1f}   "
                    f"ours/plain {ours / plain:5.2f}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
