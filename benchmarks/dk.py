"""Local deformable kernels, the resampling convolution alone, against plain and deformable ones.

python benchmarks/dk.py [--rounds N] [--json FILE] [--device cuda]
"""

import torch
import torch.nn.functional as F
from benchmark import Benchmark
from torch import Tensor, nn

from mmlearnconv.ops import dk_conv2d

SCOPE = 4
GEOMETRY = (3, 3), (1, 1), (1, 1), (1, 1)


class Resampling(nn.Module):
    """3x3 taps from a 4x4 kernel space, at given offsets."""

    def __init__(self, shape: tuple[int, ...], groups: int) -> None:
        super().__init__()
        channels = shape[1]
        self.groups = groups
        self.weight = nn.Parameter(torch.randn(channels, channels // groups, SCOPE, SCOPE))
        self.offsets = nn.Parameter(0.5 * torch.randn(shape[0], 18, *shape[2:]))

    def forward(self, input: Tensor) -> Tensor:
        return dk_conv2d(input, self.weight, self.offsets, *GEOMETRY, self.groups)


class UnfoldAndSample(Resampling):
    """The same for depthwise, as re-implementations compute it: one kernel per location."""

    def forward(self, input: Tensor) -> Tensor:
        batch, channels = input.shape[:2]
        taps = torch.arange(3, device=input.device, dtype=input.dtype) + (SCOPE - 3) / 2
        base = torch.stack(torch.meshgrid(taps, taps, indexing="ij"), -1).flatten(0, 1)
        offsets = self.offsets.view(batch, 9, 2, -1).permute(0, 3, 1, 2)
        grid = ((base + offsets).clamp(0, SCOPE - 1) / (SCOPE - 1) * 2 - 1).flip(-1)
        space = self.weight[:, 0][None].expand(batch, -1, -1, -1)
        kernels = F.grid_sample(space, grid, align_corners=True)
        columns = F.unfold(input, 3, padding=1).view(batch, channels, 9, -1).transpose(2, 3)
        return (kernels * columns).sum(3).view_as(input)


class Deformable(nn.Module):
    """mmcv's deformable convolution at given offsets, with or without modulation."""

    def __init__(self, shape: tuple[int, ...], modulated: bool) -> None:
        super().__init__()
        channels = shape[1]
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.offsets = nn.Parameter(0.5 * torch.randn(shape[0], 18, *shape[2:]))
        mask = torch.rand(shape[0], 9, *shape[2:])
        self.register_parameter("mask", nn.Parameter(mask) if modulated else None)

    def forward(self, input: Tensor) -> Tensor:
        from mmcv.ops import deform_conv2d, modulated_deform_conv2d

        input = input.contiguous()
        if self.mask is None:
            return deform_conv2d(input, self.offsets, self.weight, 1, 1)
        return modulated_deform_conv2d(input, self.offsets, self.mask, self.weight, None, 1, 1)


def mmcv_deformable(shape: tuple[int, ...]) -> dict[str, nn.Module]:
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        return {}
    return {
        "mmcv ModulatedDeformConv2d": Deformable(shape, True),
        "mmcv DeformConv2d": Deformable(shape, False),
    }


def main() -> None:
    benchmark = Benchmark(__doc__)
    shape = (1, 128, 100, 152)
    benchmark.run(
        "local DK, depthwise 3x3, scope 4",
        {
            "dk_conv2d": Resampling(shape, 128),
            "nn.Conv2d": nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False),
            "unfold + grid_sample": UnfoldAndSample(shape, 128),
        },
        shape,
    )
    shape = (2, 256, 50, 76)
    benchmark.run(
        "local DK, 3x3, scope 4",
        {
            "dk_conv2d": Resampling(shape, 1),
            "nn.Conv2d": nn.Conv2d(256, 256, 3, padding=1, bias=False),
            **mmcv_deformable(shape),
        },
        shape,
    )
    benchmark.finish()


if __name__ == "__main__":
    main()
