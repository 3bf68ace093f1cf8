"""Rows of the DRConv paper, and beside its own, that are only counted."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from .networks import MobileFaceNet, classifier
from .row import CONFIGS, MILLION, Row


def rows() -> Iterator[Row]:
    drconv = dict(type="DRConv", regions=8, base_weight=False)
    condconv = dict(type="CondConv", num_experts=8)
    between = "the paper's lies between a guide for each 1x1 and one for each block"

    row = partial(Row, "DRConv, table 1", unit=MILLION)
    for base, backbone, channels, stem, macs, note in (
        (
            "MobileNetV2",
            dict(type="mmdet.MobileNetV2", out_indices=(7,)),
            *(1280, "backbone.conv1.*", "329", ""),
        ),
        (
            "MobileNetV1",
            dict(type="MobileNetV1", out_indices=(4,)),
            *(1024, "backbone.conv_stem", "600"),
            "the row seems to be quoted from the CondConv paper, which counted otherwise",
        ),
    ):
        swap = dict(pattern="*", exclude=stem, conv=condconv)
        network = classifier(backbone, channels, swap)
        yield row(f"CondConv-{base}, classifier too", network, macs=macs, base=base, note=note)
    yield row(
        "DRConv-MobileNetV2, one guide per block",
        str(CONFIGS / "drconv" / "mobilenetv2_drconv_240e_in1k.py"),
        macs="328",
        base="MobileNetV2",
        note=between,
        # The last convolution of each block.
        unguided="*.conv.[12].conv",
    )

    def face(conv: dict[str, Any]) -> dict[str, Any]:
        swap = dict(pattern="2.*", kernel_size=1, conv=conv)
        return dict(type="SwapConv", target=MobileFaceNet, swaps=[swap])

    row = partial(Row, "DRConv, table 2", unit=MILLION, size=(112, 96), base="MobileFaceNet")
    guided = face(drconv)
    yield row("MobileFaceNet", dict(type=MobileFaceNet), macs="189", accuracy="MegaFace 91.3")
    yield row(
        "CondConv-MobileFaceNet",
        face(condconv),
        macs="195",
        accuracy="MegaFace 94.8",
        note="the paper cuts 195.7 off",
    )
    yield row("DRConv-MobileFaceNet", guided, macs="201", accuracy="MegaFace 96.2", note=between)
    yield row(
        "DRConv-MobileFaceNet, one guide per block",
        guided,
        macs="201",
        note=between,
        unguided="2.*.2",
    )
