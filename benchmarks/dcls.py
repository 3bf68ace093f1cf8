"""DCLS layer against the authors' package and a plain depthwise 7x7; and its folded forms.

python benchmarks/dcls.py [--rounds N] [--json FILE] [--device cuda]
"""

from benchmark import Benchmark
from torch import nn

from mmlearnconv.layers import DCLSConv2d, DepthwiseConv2d

# Channels, rows, columns: the first and last stage of ConvNeXt-T on an 800 x 1216 image.
SIZES = [(96, 200, 304), (768, 25, 38)]
WINDOW, COUNT = 17, 34


def package(channels: int) -> dict[str, nn.Module]:
    try:
        from DCLS.construct.modules import Dcls2d
    except ImportError:
        return {}
    return {
        "package dcls": Dcls2d(
            channels,
            channels,
            kernel_count=COUNT,
            padding=WINDOW // 2,
            dilated_kernel_size=WINDOW,
            groups=channels,
            version="v0",
        )
    }


def main() -> None:
    benchmark = Benchmark(__doc__)
    for channels, height, width in SIZES:
        ours = DCLSConv2d(channels, channels, 7, padding=3, groups=channels)
        benchmark.run(
            "DCLS",
            {
                "DCLSConv2d": ours,
                **package(channels),
                "plain 7x7": nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            },
            (1, channels, height, width),
        )
        dense = ours.to_conv()
        fast = DepthwiseConv2d(channels, channels, WINDOW, padding=WINDOW // 2, groups=channels)
        benchmark.run(
            "DCLS, folded",
            {
                "rounded, 34 taps": ours.to_taps(rounded=True),
                "exact, 136 taps": ours.to_taps(),
                "dense, DepthwiseConv2d": fast,
                "dense, nn.Conv2d": dense,
            },
            (1, channels, height, width),
        )
    benchmark.finish()


if __name__ == "__main__":
    main()
