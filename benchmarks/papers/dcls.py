"""Rows of the DCLS paper that are only counted."""

from collections.abc import Iterator
from functools import partial

from .networks import classifier
from .row import Row


def rows() -> Iterator[Row]:
    row = partial(Row, "DCLS, table 1")
    resnet = dict(type="mmdet.ResNet", depth=50, out_indices=(3,))
    dcls = dict(type="DCLS", dilated_kernel_size=7, kernel_count=5)
    swap = dict(pattern="backbone.layer*.conv2", conv=dcls, share_positions=True)
    yield row("ResNet-50", classifier(resnet, 2048), "25.6")
    yield row("ResNet-50-dcls", classifier(resnet, 2048, swap), "24.0")
    row = partial(Row, "DCLS, table 2")
    for arch, channels, parameters, plain, learned in (
        ("tiny", 768, "28.6", ("4.5", 82.1), ("5.0", 82.5)),
        ("small", 768, "50.2", ("8.7", 83.1), ("9.5", 83.7)),
        ("base", 1024, "88.6", ("15.4", 83.8), ("16.5", 84.1)),
    ):
        backbone = dict(type="ConvNeXt", arch=arch, out_indices=(3,))
        name = f"ConvNeXt-{arch[0].upper()}"
        for model, (macs, top1), options in (
            (name, plain, {}),
            (f"{name}-dcls", learned, dict(conv_cfg=dict(type="DCLS"))),
        ):
            network = classifier(backbone | options, channels)
            accuracy = f"top-1 {top1}"
            yield row(model, network, parameters, macs, base=name, accuracy=accuracy)
