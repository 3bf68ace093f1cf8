"""DRConv, including guide and filter generation, against one plain convolution and against m.

python benchmarks/drconv.py [--rounds N] [--json FILE] [--device cuda]
"""

import torch
import torch.nn.functional as F
from benchmark import Benchmark
from torch import Tensor, nn

from mmlearnconv.layers import DRConv2d

SHAPE = (2, 256, 50, 76)


class PlainConvolutions(DRConv2d):
    """As re-implementations compute it: one grouped convolution per region, and a mask."""

    def forward(self, input: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(input, self.kernel_size)
        hidden = F.conv2d(pooled, self.hidden_weight[..., None, None], self.hidden_bias).sigmoid()
        guide = self.guide(input)
        mask = guide.softmax(1)
        hard = torch.zeros_like(mask).scatter_(1, guide.argmax(1, keepdim=True), 1.0)
        mask = hard + mask - mask.detach()
        output = 0
        flat = input.reshape(1, -1, *input.shape[2:])
        for t in range(self.regions):
            filters = self.filter_scale[t, :, :, 0, None, None] * hidden[:, t, None, None]
            filters = (filters + self.filter_bias[t, :, :, None, None]).flatten(0, 1)
            response = F.conv2d(flat, filters, None, 1, self.padding, 1, len(input))
            output = output + mask[:, t, None] * response.view(len(input), -1, *input.shape[2:])
        return output + self.bias[:, None, None]


def main() -> None:
    benchmark = Benchmark(__doc__)
    for title, size, base in (("1x1", 1, True), ("3x3", 3, True), ("3x3, no base", 3, False)):
        geometry = dict(kernel_size=size, padding=size // 2)
        others = {"nn.Conv2d": nn.Conv2d(256, 256, **geometry)}
        if not base:
            others["8 convolutions and a mask"] = PlainConvolutions(
                256, 256, **geometry, base_weight=False
            )
        ours = DRConv2d(256, 256, **geometry, base_weight=base)
        benchmark.run(f"DRConv {title}", {"DRConv2d": ours, **others}, SHAPE)
    benchmark.finish()


if __name__ == "__main__":
    main()
