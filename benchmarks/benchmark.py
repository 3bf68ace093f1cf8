"""Modules side by side: time and memory, forward and backward, as ratios of one run."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlearnconv.analysis.cost import median_times, peak_memory

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Benchmark:
    """Reads the command line, runs modules side by side, and writes their figures.

    The modules take turns, so that their ratios hold when the machine's speed drifts. Times are
    medians in milliseconds; each turn is one warm-up call and three timed ones. Memory is the peak
    during a call minus the level before it, in MB, including the output and gradients.
    """

    def __init__(self, description: str) -> None:
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--rounds", type=int, default=7, help="turns of each module")
        parser.add_argument("--json", type=Path, help="write the figures to this file")
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
        args = parser.parse_args()
        self.rounds, self.json, self.device = args.rounds, args.json, torch.device(args.device)
        self.rows: list[dict[str, Any]] = []
        torch.manual_seed(0)
        where = f"{torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            where = torch.cuda.get_device_name()
        print(f"PyTorch {torch.__version__}, {where}, float32; milliseconds and MB")

    def run(
        self,
        title: str,
        modules: dict[str, nn.Module],
        shape: Sequence[int],
        formats: Sequence[str] = tuple(FORMATS),
    ) -> None:
        """Print the figures, and the ratio of the first module's time to every other's."""
        modules = {name: module.to(self.device) for name, module in modules.items()}
        for layout in formats:
            x = torch.randn(shape, device=self.device)
            x = x.contiguous(memory_format=FORMATS[layout])
            for work in (forward, forward_backward):
                calls = {name: partial(work, m, x) for name, m in modules.items()}
                self.report(title, shape, layout, calls)

    def report(
        self, title: str, shape: Sequence[int], layout: str, calls: dict[str, partial]
    ) -> None:
        """Time calls of the same function, and print and store the figures."""
        row = dict(
            title=title,
            size="x".join(map(str, shape)),
            input=layout,
            work=next(iter(calls.values())).func.__name__,
            ms=median_times(calls, self.rounds),
            mb={name: peak_memory(call, self.device) for name, call in calls.items()},
        )
        self.rows.append(row)
        self._print(row)

    def finish(self) -> None:
        if self.json:
            self.json.write_text(json.dumps(self.rows, indent=1))

    def _print(self, row: dict[str, Any]) -> None:
        work = row["work"].replace("_", " + ")
        print(f"{row['title']}, {row['size']}, {row['input']}, {work}:")
        ours = next(iter(row["ms"].values()))
        for name, ms in row["ms"].items():
            ratio = "" if ms is ours else f"   first / this {ours / ms:6.2f}"
            print(f"    {name:32} {ms:9.2f} ms {row['mb'][name]:8.0f} MB{ratio}", flush=True)


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    y = module(x)
    torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))
