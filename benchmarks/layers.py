"""Every operator beside the plain convolution of its shape: size, work, time and memory.

python benchmarks/layers.py [--rounds N] [--device cuda] [--json FILE]

Forward passes at 2x256x50x76, contiguous. Memory is the peak of one of them.
"""

from functools import partial
from typing import Any

import torch
from benchmark import Benchmark
from mmcv.cnn import build_conv_layer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlearnconv.analysis.cost import median_times, peak_memory
from mmlearnconv.catalog import CATALOG, operator_names

SHAPE = (2, 256, 50, 76)


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


def macs(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def main() -> None:
    benchmark = Benchmark(__doc__)
    x = torch.randn(SHAPE, device=benchmark.device)
    known = operator_names(takes_over=False)
    compared = [(o, form) for o in CATALOG if o.name in known for form in o.comparisons]
    print(
        f"{'layer':30} {'parameters':>12} {'plain':>9} {'M mult-adds':>12} {'plain':>8} "
        f"{'ms':>8} {'plain':>7} {'ratio':>6} {'peak MB':>8} {'plain':>6}"
    )
    with torch.no_grad():
        for kernel_size in (3, 1):
            for operator, form in compared:
                name = " ".join(filter(None, (operator.name, form.label)))
                depthwise = form.depthwise
                module = build(dict(type=operator.name) | form.options, kernel_size, depthwise)
                if type(module) is nn.Conv2d:
                    continue
                plain = build(dict(type="Conv2d"), kernel_size, depthwise)
                for conv in (module, plain):
                    conv.to(benchmark.device)
                parameters = [sum(p.numel() for p in m.parameters()) for m in (module, plain)]
                work = [macs(m, x) / 1e6 for m in (module, plain)]
                calls = {"ours": partial(module, x), "plain": partial(plain, x)}
                ms = list(median_times(calls, benchmark.rounds).values())
                peaks = [peak_memory(call, benchmark.device) for call in calls.values()]
                kind = "depthwise " if depthwise else ""
                title = f"{name}, {kind}{kernel_size}x{kernel_size}"
                benchmark.rows.append(
                    dict(title=title, parameters=parameters, macs=work, ms=ms, mb=peaks)
                )
                print(
                    f"{title:30} {parameters[0]:12,} "
                    f"{parameters[1]:9,} {work[0]:12,.0f} {work[1]:8,.0f} {ms[0]:8.1f} "
                    f"{ms[1]:7.1f} {ms[0] / ms[1]:6.1f} {peaks[0]:8.0f} {peaks[1]:6.0f}",
                    flush=True,
                )
    benchmark.finish()


if __name__ == "__main__":
    main()
