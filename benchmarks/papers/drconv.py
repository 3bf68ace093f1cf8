"""Rows of the DRConv paper that are only counted."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from .networks import MobileFaceNet, classifier
from .row import MILLION, Row


def rows() -> Iterator[Row]:
    row = partial(Row, "DRConv, table 1", unit=MILLION)
    drconv = dict(type="DRConv", regions=8, base_weight=False)
    condconv = dict(type="CondConv", num_experts=8)
    norms = "the paper counts one operation per element for norms, too; compare the increases"
    blocks = dict(pattern="backbone.stage*.branch2.*", kernel_size=1)
    between = "the paper's lies between a guide for each 1x1 and one for each block"

    def group(base: str, plain: dict[str, Any], *rest: Any) -> Iterator[Row]:
        yield row(base, plain, macs=rest[0], accuracy=rest[1], note=rest[2])
        for name, network, macs, accuracy, note, *unguided in rest[3:]:
            yield row(
                name.format(base),
                network,
                macs=macs,
                base=base,
                accuracy=accuracy,
                note=note,
                unguided="".join(unguided),
            )

    for width, printed, top1 in (
        (0.5, ("42", "43", "46"), (60.8, 65.0, 67.1)),
        (1.0, ("147", "152", "157"), (69.5, 72.0, 73.1)),
    ):
        plain = dict(type="ShuffleNetV2", widen_factor=width, out_indices=(3,))
        learned = plain | dict(pointwise_conv_cfg=drconv, share_guide=True)
        condconvs = classifier(plain, 1024, blocks | dict(conv=condconv))
        yield from group(
            f"ShuffleNetV2 {width:g}x",
            classifier(plain, 1024),
            *(printed[0], f"top-1 {top1[0]}", norms),
            ("CondConv-{}", condconvs, printed[1], f"top-1 {top1[1]}", norms),
            ("DRConv-{}", classifier(learned, 1024), printed[2], f"top-1 {top1[2]}", norms),
        )

    pointwise = dict(pattern="backbone.*", kernel_size=1, conv=drconv)
    plain = dict(type="mmdet.MobileNetV2", out_indices=(7,))
    all_but_stem = dict(pattern="*", exclude="backbone.conv1.*", conv=condconv)
    learned = classifier(plain, 1280, pointwise)
    yield from group(
        "MobileNetV2",
        classifier(plain, 1280),
        *("300", "top-1 72.0", "the paper cuts 300.8 off"),
        (
            "CondConv-{}, classifier too",
            classifier(plain, 1280, all_but_stem),
            "329",
            "top-1 74.6",
            "",
        ),
        ("DRConv-{}", learned, "328", "top-1 75.7", between),
        ("DRConv-{}, one guide per block", learned, "328", "", between, "*linear_conv*"),
    )

    quoted = "the row seems to be quoted from the CondConv paper, which counted otherwise"
    bias = "with the biases of the guides, which are not counted here, it is the paper's"
    plain = dict(type="MobileNetV1", out_indices=(4,))
    all_but_stem = dict(pattern="*", exclude="backbone.conv_stem", conv=condconv)
    yield from group(
        "MobileNetV1",
        classifier(plain, 1024),
        *("569", "top-1 70.6", ""),
        (
            *("CondConv-{}, classifier too", classifier(plain, 1024, all_but_stem)),
            *("600", "top-1 73.7", quoted),
        ),
        ("DRConv-{}", classifier(plain, 1024, pointwise), "610", "top-1 75.5", bias),
    )

    def face(conv: dict[str, Any]) -> dict[str, Any]:
        swap = dict(pattern="2.*", kernel_size=1, conv=conv)
        return dict(type="SwapConv", target=MobileFaceNet, swaps=[swap])

    row = partial(Row, "DRConv, table 2", unit=MILLION, size=(112, 96))
    yield from group(
        "MobileFaceNet",
        dict(type=MobileFaceNet),
        *("189", "MegaFace 91.3", ""),
        ("CondConv-{}", face(condconv), "195", "MegaFace 94.8", "the paper cuts 195.7 off"),
        ("DRConv-{}", face(drconv), "201", "MegaFace 96.2", between),
        ("DRConv-{}, one guide per block", face(drconv), "201", "", between, "2.*.2"),
    )
