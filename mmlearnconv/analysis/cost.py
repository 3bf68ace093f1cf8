"""Time and memory of calls, side by side."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def median_times(
    calls: Mapping[str, Callable[[], Any]], rounds: int, repeats: int = 3, warm_up: bool = True
) -> dict[str, float]:
    """Median milliseconds of each call.

    The calls take turns, so that their ratios hold when the machine's speed drifts.

    Args:
        calls: by name.
        rounds: turns of each call.
        repeats: timed calls per turn. Default: 3.
        warm_up: whether each turn begins with a call that is not timed. Default: ``True``.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if warm_up:
                call()
            for _ in range(repeats):
                _wait()
                begun = time.perf_counter()
                call()
                _wait()
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(call: Callable[[], Any], device: torch.device) -> float:
    """MB that a call needs at its peak beyond what there was before; NaN where that is not known.

    On a CPU it is known on Linux.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not _FORGET_PEAK.exists():
        call()
        return float("nan")
    # Memory freed goes back at once, so that peaks can be seen.
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    _FORGET_PEAK.write_text("5")
    call()
    return _status("VmHWM") - before


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(field: str) -> float:
    """A line of the process's status, in MB."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
