"""Orthonormal filters: our eigenvectors in float64 against other methods, error and time.

python benchmarks/coc.py [--rounds N] [--json FILE] [--device cuda]

Prints the largest |F F^T - I| in float32 at several condition numbers, then the times for the 3x3
kernels of ResNet's stages.
"""

import torch
from benchmark import Benchmark
from torch import Tensor, nn

from mmlearnconv.ops import orthogonalize

STEPS = 30


def newton_schulz(weight: Tensor, steps: int = STEPS) -> Tensor:
    """``X <- 3/2 X - 1/2 X X^T X``, which is stable in float32."""
    x = weight.flatten(1)
    x = x / (x @ x.T).norm().sqrt()
    for _ in range(steps):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x.view_as(weight)


def decomposed(weight: Tensor) -> Tensor:
    """By PyTorch's singular value decomposition."""
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return (left @ right).view_as(weight)


WAYS = {"orthogonalize": orthogonalize, f"{STEPS} steps": newton_schulz, "SVD": decomposed}


class Kernel(nn.Module):
    """The kernel alone, as a module to be timed."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = WAYS[way]

    def forward(self, weight: Tensor) -> Tensor:
        return self.way(weight)


def error_at(way: str, shape: tuple[int, int], condition: float) -> float:
    """Largest error for filters whose singular values fall from 1 to 1 / condition."""
    left = torch.linalg.qr(torch.randn(shape[0], shape[0], dtype=torch.double))[0]
    right = torch.linalg.qr(torch.randn(shape[::-1], dtype=torch.double))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), shape[0]).double()
    rows = WAYS[way]((left * values @ right.T).float())
    return (rows @ rows.T - torch.eye(shape[0])).abs().max().item()


def main() -> None:
    benchmark = Benchmark(__doc__)
    for shape in ((64, 576), (144, 162), (256, 2304)):
        for condition in (10.0, 1e3, 1e5):
            errors = ", ".join(f"{way} {error_at(way, shape, condition):.0e}" for way in WAYS)
            print(f"{shape[0]} x {shape[1]}, condition {condition:.0e}: {errors}")
    for channels in (64, 128, 256, 512):
        shape = (channels, channels, 3, 3)
        modules = {way: Kernel(way) for way in WAYS}
        benchmark.run("orthonormal filters", modules, shape, ("contiguous",))
    benchmark.finish()


if __name__ == "__main__":
    main()
