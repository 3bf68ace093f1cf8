"""Mask R-CNN with ConvNeXt-T: DCLS, plain 7x7, and the package dcls; training and inference.

python benchmarks/models.py [--rounds N] [--json FILE] [--device cuda] [--size HEIGHT WIDTH]

A training iteration of one image: losses, backward pass, optimizer step. Inference: prediction on
the same image.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import Benchmark
from DCLS.construct.modules import Dcls2d
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmlearnconv.registry import CONV_LAYERS, MODELS

CONFIG = Path(__file__).parent.parent / "configs" / "mask_rcnn_dcls_convnext_t.py"
OBJECTS = 8


@CONV_LAYERS.register_module()
class PackageDCLS(Dcls2d):
    """The package's layer with the arguments of a replaced 7x7 depthwise convolution."""

    def __init__(self, in_channels: int, out_channels: int, *_: Any, **kwargs: Any) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_count=34,
            padding=8,
            dilated_kernel_size=17,
            groups=kwargs["groups"],
            version="v0",
        )


def build(conv_cfg: dict[str, Any] | None, device: torch.device) -> tuple[nn.Module, Any]:
    """The model, and its optimizer wrapper."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(conv_cfg=conv_cfg, init_cfg=None)
    model = MODELS.build(cfg.model).to(device)
    cfg.optim_wrapper.update(type="OptimWrapper")
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


def batch(height: int, width: int, device: torch.device) -> dict[str, Any]:
    """An image of noise with boxes and masks."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (OBJECTS, 2)) * (width, height)
    sides = rng.uniform(0.05, 0.4, (OBJECTS, 2)) * (width, height)
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    masks = np.zeros((OBJECTS, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            pad_shape=(height, width),
            batch_input_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(rng.integers(0, 80, OBJECTS)),
        masks=BitmapMasks(masks, height, width),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    image = torch.from_numpy(rng.normal(size=(1, 3, height, width)).astype(np.float32))
    return dict(inputs=image.to(device), data_samples=[sample.to(device)])


def train(model: nn.Module, optimizer: Any, data: dict[str, Any]) -> Tensor:
    model.train()
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    optimizer.update_params(loss)
    return loss


@torch.no_grad()
def predict(model: nn.Module, optimizer: Any, data: dict[str, Any]) -> list:
    model.eval()
    return model(**data, mode="predict")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    args, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    benchmark = Benchmark(__doc__)
    register_all_modules()
    models = {
        "DCLS": build(dict(type="DCLS"), benchmark.device),
        "plain 7x7": build(None, benchmark.device),
        "package dcls": build(dict(type="PackageDCLS"), benchmark.device),
    }
    data = batch(*args.size, benchmark.device)
    for work in (train, predict):
        calls = {name: partial(work, *pair, data) for name, pair in models.items()}
        benchmark.report("Mask R-CNN ConvNeXt-T", data["inputs"].shape, "contiguous", calls)
    benchmark.finish()


if __name__ == "__main__":
    main()
