"""DKE and the active convolution unit against the plain convolution of their shape.

python benchmarks/dke.py [--rounds N] [--json FILE] [--device cuda]
"""

from benchmark import Benchmark
from torch import nn

from mmlearnconv.layers import DKEConv2d

SHAPE = (2, 256, 50, 76)


def main() -> None:
    benchmark = Benchmark(__doc__)
    for size in (3, 1):
        geometry = dict(kernel_size=size, padding=size // 2)
        for title, options in (
            ("DKE with attention", {}),
            ("DKE without", dict(attention=False)),
        ):
            benchmark.run(
                f"{title}, {size}x{size}",
                {
                    "DKEConv2d": DKEConv2d(256, 256, **geometry, **options),
                    "nn.Conv2d": nn.Conv2d(256, 256, **geometry),
                },
                SHAPE,
            )
    benchmark.finish()


if __name__ == "__main__":
    main()
