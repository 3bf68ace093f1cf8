"""Depthwise convolutions with large and dilated kernels against nn.Conv2d.

python benchmarks/depthwise.py [--rounds N] [--json FILE] [--device cuda]
"""

from benchmark import Benchmark
from torch import nn

from mmlearnconv.layers import DepthwiseConv2d

SHAPE = (1, 96, 100, 152)
# Kernel size, stride, dilation.
KERNELS = [(7, 1, 1), (17, 1, 1), (31, 1, 1), (17, 2, 1), (7, 1, 2), (3, 1, 2)]


def main() -> None:
    benchmark = Benchmark(__doc__)
    for size, stride, dilation in KERNELS:
        options = dict(stride=stride, dilation=dilation, padding=dilation * (size // 2), groups=96)
        title = f"depthwise {size}x{size}, stride {stride}, dilation {dilation}"
        modules = {
            layer.__name__: layer(96, 96, size, **options) for layer in (DepthwiseConv2d, nn.Conv2d)
        }
        benchmark.run(title, modules, SHAPE)
    benchmark.finish()


if __name__ == "__main__":
    main()
