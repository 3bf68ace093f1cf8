"""Three-dimensional convolution on a CPU: our sum over slices against PyTorch's own.

python benchmarks/conv3d.py [--rounds N] [--json FILE]

What the guard of ops/conv3d.py costs.
"""

from benchmark import Benchmark
from torch import Tensor, nn

from mmlearnconv.ops.depthwise import convolve

# Input, kernel and groups.
SHAPES = (
    ((2, 16, 16, 56, 56), 3, 1),
    ((2, 16, 16, 56, 56), 7, 1),
    ((2, 32, 8, 28, 28), 7, 32),
    ((1, 8, 8, 8, 8), 5, 1),
)


class Guarded(nn.Conv3d):
    """``nn.Conv3d`` as our layers compute it."""

    def forward(self, input: Tensor) -> Tensor:
        geometry = self.stride, self.padding, self.dilation, self.groups
        return convolve(input, self.weight, self.bias, *geometry)


def main() -> None:
    benchmark = Benchmark(__doc__)
    for shape, size, groups in SHAPES:
        options = dict(padding=size // 2, groups=groups)
        modules = {
            kind.__name__: kind(shape[1], shape[1], size, **options)
            for kind in (Guarded, nn.Conv3d)
        }
        title = f"{size}x{size}x{size}, groups {groups}"
        benchmark.run(title, modules, shape, ("contiguous",))
    benchmark.finish()


if __name__ == "__main__":
    main()
