"""Every operator beside the plain convolution of its shape: size, work, time and memory.

python benchmarks/layers.py [--rounds N]

Forward passes at 2x256x50x76, float32. Times are medians, the operator and its plain convolution
taking turns; memory is the peak of resident memory during one forward pass.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmcv.cnn import build_conv_layer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmlearnconv  # noqa: F401  Registers the layers.

SHAPE = (2, 256, 50, 76)
# name, conv_cfg, depthwise
OPERATORS: list[tuple[str, dict[str, Any], bool]] = [
    ("DCLS", dict(type="DCLS"), True),
    ("DCLS", dict(type="DCLS"), False),
    ("DK local", dict(type="DK", mode="local"), True),
    ("DK local", dict(type="DK", mode="local"), False),
    ("DK global", dict(type="DK", mode="global"), False),
    ("DKE", dict(type="DKE"), False),
    ("ACU", dict(type="ACU"), False),
    ("CoC", dict(type="CoC"), False),
    ("ConvStnd", dict(type="ConvStnd"), False),
    ("ConvOrth", dict(type="ConvOrth"), False),
    ("DRConv", dict(type="DRConv"), False),
    ("DRConv, no base", dict(type="DRConv", base_weight=False), False),
    ("CondConv", dict(type="CondConv"), False),
]


def build(cfg: dict[str, Any], kernel_size: int, depthwise: bool) -> nn.Module:
    channels = SHAPE[1]
    return build_conv_layer(
        cfg,
        channels,
        channels,
        kernel_size,
        padding=kernel_size // 2,
        groups=channels if depthwise else 1,
    )


def multiply_adds(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def turns(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median milliseconds of each call."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for own, call in zip(times, calls, strict=True):
            call()
            begun = time.perf_counter()
            call()
            own.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(own) for own in times]


def status(field: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_memory(call: Callable[[], Any]) -> float:
    """MB of resident memory that a call needs at its peak."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far.
    call()
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    # Memory freed goes back at once, so that peaks can be seen.
    ctypes.CDLL(None).mallopt(-3, 65536)
    torch.manual_seed(0)
    x = torch.randn(SHAPE)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, input {SHAPE}, float32")
    print(
        f"{'layer':30} {'parameters':>12} {'plain':>9} {'M mult-adds':>12} {'plain':>8} "
        f"{'ms':>8} {'plain':>7} {'ratio':>6} {'peak MB':>8} {'plain':>6}"
    )
    with torch.no_grad():
        for kernel_size in (3, 1):
            for name, cfg, depthwise in OPERATORS:
                module = build(cfg, kernel_size, depthwise)
                if type(module) is nn.Conv2d:
                    continue
                plain = build(dict(type="Conv2d"), kernel_size, depthwise)
                parameters = [sum(p.numel() for p in m.parameters()) for m in (module, plain)]
                work = [multiply_adds(m, x) / 1e6 for m in (module, plain)]
                ms = turns([lambda m=module: m(x), lambda m=plain: m(x)], args.rounds)
                peaks = [peak_memory(lambda m=m: m(x)) for m in (module, plain)]
                kind = "depthwise " if depthwise else ""
                print(
                    f"{f'{name}, {kind}{kernel_size}x{kernel_size}':30} {parameters[0]:12,} "
                    f"{parameters[1]:9,} {work[0]:12,.0f} {work[1]:8,.0f} {ms[0]:8.1f} "
                    f"{ms[1]:7.1f} {ms[0] / ms[1]:6.1f} {peaks[0]:8.0f} {peaks[1]:6.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
