"""Modules side by side: time and memory, forward and backward, as ratios of one run."""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
        # Memory freed goes back at once, so that peaks can be seen.
        self._trim = partial(ctypes.CDLL(None).malloc_trim, 0)
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
            ms=self.medians(calls),
            mb={name: self.peak(call) for name, call in calls.items()},
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

    def medians(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Median milliseconds of each call."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.rounds):
            for name, call in calls.items():
                call()
                for _ in range(3):
                    self._wait()
                    begun = time.perf_counter()
                    call()
                    self._wait()
                    times[name].append(1e3 * (time.perf_counter() - begun))
        return {name: statistics.median(values) for name, values in times.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self, call: Callable[[], Any]) -> float:
        """MB that a call needs at its peak beyond what there was before."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        self._trim()
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far.
        call()
        return _status("VmHWM") - before


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    y = module(x)
    torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))


def _status(field: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
