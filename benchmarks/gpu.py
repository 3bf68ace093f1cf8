"""The operations on a GPU beside cuDNN's plain convolutions, timed by CUDA events.

python benchmarks/gpu.py [--markdown FILE] [--rounds N]

Needs PyTorch and the compiled operations, neither mmcv nor mmengine. Each call is timed alone,
after the L2 cache was overwritten; figures are medians. All are timed in float32, with TF32, and
under bfloat16 autocast.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlearnconv import ops

Work = tuple[Callable[..., Tensor], list[Tensor]]


def depthwise(device: torch.device) -> dict[str, dict[str, Work]]:
    """Large depthwise kernels, ours and PyTorch's."""
    found = {}
    for shape, size in (((2, 96, 200, 304), 17), ((2, 96, 200, 304), 7), ((2, 768, 25, 38), 17)):
        channels = shape[1]
        tensors = [torch.randn(shape, device=device)]
        tensors.append(torch.randn(channels, 1, size, size, device=device))
        found[f"depthwise {size}x{size}, {'x'.join(map(str, shape))}"] = {
            "ours": (lambda x, w, p=size // 2: ops.depthwise_conv2d(x, w, padding=p), tensors),
            "plain": (
                lambda x, w, p=size // 2: F.conv2d(x, w, padding=p, groups=len(w)),
                tensors,
            ),
        }
    return found


def dense(device: torch.device) -> dict[str, dict[str, Work]]:
    """3x3 convolutions of 256 channels at 2x256x50x76, and the plain one."""
    n, c, h, w = 2, 256, 50, 76
    normal = partial(torch.randn, device=device)
    x, weight = normal(n, c, h, w), normal(c, c, 3, 3)
    points = torch.cartesian_prod(*(torch.arange(-1.0, 2),) * 2).to(device)
    points = (points + 0.3 * normal(c, 9, 2)).clamp(-2, 2)
    plain: Work = (lambda x, weight: F.conv2d(x, weight, padding=1), [x, weight])

    def dke(x: Tensor, weight: Tensor, points: Tensor, scores: Tensor) -> Tensor:
        arguments = x, weight.flatten(2), points, (9, 9)
        return ops.dke_conv2d(*arguments, padding=4, attention=scores)

    operators: dict[str, Work] = {
        "DKE": (dke, [x, weight, points, normal(n, 9, h, w).sigmoid()]),
        "local DK": (
            lambda x, space, offsets: ops.dk_conv2d(x, space, offsets, 3, padding=1),
            [x, normal(c, c, 4, 4), normal(n, 18, h, w)],
        ),
        "DRConv, 8 regions": (
            lambda *tensors: ops.drconv2d_factorised(*tensors, padding=1),
            [x, normal(n, 8, h, w), normal(n, 8, 3, 3), normal(8, c, c), normal(8, c, c)],
        ),
    }
    return {
        f"{name}, 3x3, 2x256x50x76": {"ours": o, "plain": plain} for name, o in operators.items()
    }


def forward(function: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    with torch.no_grad():
        function(*tensors)


def forward_backward(function: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    torch.autograd.grad(output, leaves, torch.ones_like(output))


def median_ms(call: Callable[[], None], rounds: int, flush: Tensor) -> float:
    """Median milliseconds of a call with a cold L2 cache."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls per figure")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU; benchmarks/gpu_model.py predicts without one")
    device = torch.device("cuda")
    flush = torch.empty(2**26, device=device)
    heads = ["operation", "work", "precision", "ms", "plain, ms", "ratio"]
    lines = [f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for line in lines:
        print(line)
    for title, calls in (depthwise(device) | dense(device)).items():
        for work in (forward, forward_backward):
            for precision in ("float32", "TF32", "bfloat16 autocast"):
                torch.backends.cudnn.allow_tf32 = precision == "TF32"
                torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
                amp = precision.startswith("bfloat16")
                with torch.autocast("cuda", torch.bfloat16) if amp else nullcontext():
                    ms = [median_ms(partial(work, *c), args.rounds, flush) for c in calls.values()]
                what = work.__name__.replace("_", " + ")
                cells = [title, what, precision, f"{ms[0]:.3f}", f"{ms[1]:.3f}"]
                lines.append(f"| {' | '.join([*cells, f'{ms[0] / ms[1]:.2f}'])} |")
                print(lines[-1], flush=True)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
