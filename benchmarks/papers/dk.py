"""Rows of the DK paper that are only counted."""

from collections.abc import Iterator
from typing import Any

from .networks import classifier
from .row import Row


def rows() -> Iterator[Row]:
    resnet = dict(type="mmdet.ResNet", depth=50, out_indices=(3,), style="caffe")
    mobile = dict(type="mmdet.MobileNetV2", out_indices=(7,))
    dw = dict(type="ResNetDW", out_indices=(3,))

    # The convolutions that the paper replaces.
    depthwise = dict(pattern="backbone.*", depthwise=True)
    late = dict(pattern="backbone.layer[234].*", depthwise=True)
    late_mobile = dict(pattern="backbone.layer[3-7].*", depthwise=True)
    pointwise = dict(pattern="backbone.layer*.conv[13]")
    pointwise_mobile = dict(pattern="backbone.*", kernel_size=1)
    blocks = dict(pattern="backbone.layer*.conv[123]")
    all_but_stem = dict(pattern="backbone.*", exclude="backbone.conv1.*")

    def local(scope: int, rule: dict[str, Any] = depthwise, **options: Any) -> dict[str, Any]:
        return rule | dict(conv=dict(type="DK", mode="local", scope=scope, **options))

    def whole(scope: int, rule: dict[str, Any] = depthwise) -> dict[str, Any]:
        return rule | dict(conv=dict(type="DK", mode="global", scope=scope))

    whole_1x1, whole_1x1_mobile = whole(2, pointwise), whole(2, pointwise_mobile)

    def condconv(rule: dict[str, Any], experts: int) -> dict[str, Any]:
        return rule | dict(conv=dict(type="CondConv", num_experts=experts))

    def deformable(rule: dict[str, Any]) -> dict[str, Any]:
        return rule | dict(conv=dict(type="DCN", deform_groups=1))

    stride = "the paper's plain figure lies between stride in the 3x3 (here) and in the first 1x1"
    norms = "the paper counts two operations per element for norms, too"
    resampling = "how the paper counts resampled 1x1 kernels was not found"
    experts = (
        "the paper's figure comes near a convolution for each expert, not one for their mixture"
    )

    def group(
        table: str, base: str, backbone: dict[str, Any], channels: int, why: str, *rest: Any
    ) -> Iterator[Row]:
        for what, swaps, parameters, macs, top1, *notes in rest:
            yield Row(
                table,
                f"{base}, {what}" if what else base,
                classifier(backbone, channels, *swaps),
                parameters,
                macs,
                base=base,
                accuracy=f"top-1 {top1}" if top1 else "",
                note="; ".join([why, *notes]),
            )

    yield from group(
        *("DK, table 1", "ResNet-50, stride in the 1x1", resnet, 2048, ""),
        ("", [], "25.6", "3.86", 76.7),
    )
    yield from group(
        *("DK, table 1", "ResNet-50-DW", dw, 2048, stride),
        ("", [], "23.7", "3.82", 76.3),
        ("local 3x3", [local(3)], "24.9", "4.32", 77.4),
        ("local 4x4", [local(4)], "25.0", "4.32", 78.1),
        ("local 5x5", [local(5)], "25.0", "4.32", 77.8),
        ("local 9x9", [local(9)], "25.4", "4.32", 77.4),
        ("global 4x4", [whole(4)], "23.9", "3.82", 77.6),
        ("1x1 too, global 4x4", [whole(4), whole_1x1], "80.1", "4.09", 77.9, resampling),
        ("1x1 too, local 4x4", [local(4), whole_1x1], "81.2", "4.60", 78.5, resampling),
    )
    yield from group(
        *("DK, table 1", "ResNet-50-DW, stride in the 1x1", dw | dict(style="caffe"), 2048, stride),
        ("", [], "23.7", "3.82", None),
    )
    yield from group(
        *("DK, table 1", "MobileNet-V2", mobile, 1280, norms),
        ("", [], "3.5", "0.31", 71.9),
        ("global 4x4", [whole(4)], "3.7", "0.31", 73.6),
        ("1x1 too, global 4x4", [whole(4), whole_1x1_mobile], "10.1", "0.34", 74.5, resampling),
        ("local 4x4", [local(4)], "4.7", "0.73", 74.1),
        ("1x1 too, local 4x4", [local(4), whole_1x1_mobile], "11.1", "0.76", 74.8, resampling),
    )
    yield from group(
        *("DK, table 2", "ResNet-50-DW", dw, 2048, stride),
        ("", [], "23.7", "3.82", 76.3),
        ("local 4x4", [local(4)], "25.0", "4.32", 78.1),
        ("SCC of 2 experts", [condconv(blocks, 2)], "42.5", "7.13", 77.6, experts),
        ("SCC and local 4x4", [local(4), condconv(pointwise, 2)], "43.7", "7.61", 78.9, experts),
        ("DCN in stages 3 to 5", [deformable(late)], "24.8", "4.10", 78.0),
        ("DCN and local 4x4", [local(4, late, data_offset=True), local(4)], "26.1", "4.60", 79.0),
    )
    local_and_condconv = [local(4), condconv(pointwise_mobile, 8)]
    local_and_deformable = [local(4, late_mobile, data_offset=True), local(4)]
    yield from group(
        *("DK, table 2", "MobileNet-V2", mobile, 1280, norms),
        ("", [], "3.5", "0.31", 71.9),
        ("local 4x4", [local(4)], "4.7", "0.73", 74.1),
        ("SCC of 8 experts", [condconv(all_but_stem, 8)], "19.0", "2.19", 74.3, experts),
        ("SCC and local 4x4", local_and_condconv, "19.7", "2.48", 75.5, experts),
        ("DCN from the fourth block on", [deformable(late_mobile)], "4.6", "0.52", 73.2),
        ("DCN and local 4x4", local_and_deformable, "5.8", "0.93", 74.4),
    )
