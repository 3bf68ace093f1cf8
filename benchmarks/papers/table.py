"""The papers' tables: their parameters and multiply-adds beside ours, their accuracy as the target.

Networks of detection and segmentation rows are the configs that ``model-index.yml`` lists; those of
classification rows, which are only counted, stand here.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from ..registry import MODELS
from .complexity import Complexity, count_complexity

_HEAD = """# The papers' tables

Made by `python tools/paper_tables.py --output docs/paper_tables.md`, which counts all networks.

- Parameters and multiply-adds are ours, the paper's, and the difference, which is 0 where ours is
  the paper's to its last printed digit. An increase is over the plain network of the same table.
- Classification is counted at 224x224 (faces at 112x96), detectors at 1280x800 with 1000 proposals
  and 100 masks, segmentors at 2048x512; multiply-adds of detectors and segmentors are with those of
  norms, ReLUs and pooling, as the counter has them with which such figures are published.
- DK's table 2 repeats the plain rows of its table 1. Plain rows of DCLS's tables 3 and 4 have their
  parameters and multiply-adds from the ConvNeXt paper, tables 3 and 4; accuracies of both tables,
  and what S and B cost with DCLS, are those of the DCLS authors' repository.
- Nothing here was trained to these accuracies: they are the papers', and the target. Weights of
  plain backbones load into all of ours but those with orthonormal kernels
  ([pretrained.md](pretrained.md)).
- Rows that the DRConv paper marks with a star (fewer multiply-adds) are left out: no network was
  found that has their figures.
"""
MILLION, BILLION = 10**6, 10**9
IMAGENET = (224, 224)
# Height and width that published figures of detectors and segmentors are for.
SIZES = {"mmdet": (800, 1280), "mmseg": (512, 2048)}


class Classifier(nn.Module):
    """A backbone with a classifier of 1000 classes, to be counted.

    Args:
        backbone: config of the backbone, which returns one map.
        channels: of that map.
        hidden: of layers before the last one; the map is then pooled to 6x6, as AlexNet's.
    """

    def __init__(
        self, backbone: Mapping[str, Any], channels: int, hidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        size = 6 if hidden else 1
        layers: list[nn.Module] = [nn.MaxPool2d(3, 2)] if hidden else []
        layers += [nn.AdaptiveAvgPool2d(size)]
        for before, after in pairwise([channels, *hidden, 1000]):
            # Linear layers, as convolutions, which rules of SwapConv may name.
            layers += [nn.Conv2d(before, after, size), nn.ReLU()]
            size = 1
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` to ``(N, 1000, 1, 1)``."""
        return self.head(self.backbone(images)[-1])


class MobileFaceNet(nn.Sequential):
    """MobileFaceNet for faces of 112x96, to be counted.

    Chen, Liu, Gao, Han: MobileFaceNets. CCBR 2018. https://arxiv.org/abs/1804.07573
    """

    def __init__(self) -> None:
        def conv(cin: int, cout: int, size: Any = 1, padding: int = 0, **kw: int) -> nn.Module:
            return nn.Conv2d(cin, cout, size, padding=padding, bias=False, **kw)

        layers = [conv(3, 64, 3, 1, stride=2), conv(64, 64, 3, 1, groups=64)]
        channels, bottlenecks = 64, []
        for expansion, width, count, stride in (
            *((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1)),
            *((4, 128, 1, 2), (2, 128, 2, 1)),
        ):
            for number in range(count):
                inner = channels * expansion
                step = 1 if number else stride
                depthwise = conv(inner, inner, 3, 1, stride=step, groups=inner)
                parts = conv(channels, inner), depthwise, conv(inner, width)
                bottlenecks.append(nn.Sequential(*parts))
                channels = width
        last = [conv(128, 512), conv(512, 512, (7, 6), groups=512), conv(512, 128)]
        super().__init__(*layers, nn.Sequential(*bottlenecks), *last)


@dataclass(frozen=True)
class Row:
    """A row of a paper's table.

    Args:
        table: 'DK, table 1'.
        model: its name there.
        network: our network's config, or the file that holds it.
        parameters: as printed, in millions.
        multiply_adds: as printed, in ``unit``.
        unit: of multiply-adds, million or billion.
        base: the model in the same table whose figures this one adds to.
        elementwise: whether the table counts operations of norms, ReLUs and pooling.
        unguided: shell-style pattern of layers that another one's guide serves.
        size: height and width of the image.
        accuracy: as printed: what training should reach.
        note: why our figure differs.
    """

    table: str
    model: str
    network: Mapping[str, Any] | str
    parameters: str | None = None
    multiply_adds: str | None = None
    unit: int = BILLION
    base: str | None = None
    elementwise: bool = False
    unguided: str = ""
    size: tuple[int, int] = IMAGENET
    accuracy: str = ""
    note: str = ""

    @property
    def ours(self) -> tuple[float, float]:
        """Our parameters, in millions, and multiply-adds, in ``unit``."""
        counts = _count(self)
        operations = counts.multiply_adds + counts.elementwise * self.elementwise
        for name in fnmatch.filter(counts.layers, self.unguided):
            operations -= counts.layers[name].get("guide", 0)
        return counts.parameters / MILLION, operations / self.unit

    @property
    def printed(self) -> tuple[str | None, str | None]:
        """The paper's parameters and multiply-adds."""
        return self.parameters, self.multiply_adds

    def agrees(self) -> tuple[bool | None, bool | None]:
        """Whether each figure is the printed one to its last digit; ``None`` without one."""
        return tuple(
            None if theirs is None else _rounded(ours, theirs) == theirs
            for ours, theirs in zip(self.ours, self.printed, strict=True)
        )


def _digits(printed: str) -> int:
    """Of a figure, behind the point."""
    return len(printed.partition(".")[2])


def _rounded(ours: float, theirs: str) -> str:
    digits = _digits(theirs)
    # Half up, as people round.
    return f"{math.floor(ours * 10**digits + 0.5) / 10**digits:.{digits}f}"


_counted: dict[str, Complexity] = {}


def _count(row: Row) -> Complexity:
    key = repr(row.network)
    if key not in _counted:
        if isinstance(row.network, str):
            cfg = Config.fromfile(row.network)
            scope = cfg.get("default_scope", "mmdet")
            init_default_scope(scope)
            _counted[key] = count_complexity(MODELS.build(cfg.model), SIZES[scope])
        else:
            _counted[key] = count_complexity(MODELS.build(dict(row.network)), row.size)
    return _counted[key]


def rows(root: str | Path) -> list[Row]:
    """All rows.

    Args:
        root: the folder with ``model-index.yml`` and ``configs``.

    Raises:
        FileNotFoundError: there is no ``model-index.yml``.
    """
    return [*_dcls(), *_dk(), *_dke(), *_drconv(), *_of_configs(Path(root))]


def _classifier(
    backbone: Mapping[str, Any], channels: int, *swaps: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """Config of a :class:`Classifier`, of whose convolutions some are swapped."""
    model = dict(backbone=backbone, channels=channels, **options)
    if not swaps:
        return dict(type=Classifier, **model)
    return dict(type="SwapConv", target=Classifier, swaps=list(swaps), **model)


def _dcls() -> Iterator[Row]:
    row = partial(Row, "DCLS, table 1")
    resnet = dict(type="mmdet.ResNet", depth=50, out_indices=(3,))
    dcls = dict(type="DCLS", dilated_kernel_size=7, kernel_count=5)
    swap = dict(pattern="backbone.layer*.conv2", conv=dcls, share_positions=True)
    yield row("ResNet-50", _classifier(resnet, 2048), "25.6")
    yield row("ResNet-50-dcls", _classifier(resnet, 2048, swap), "24.0")
    row = partial(Row, "DCLS, table 2")
    for arch, channels, parameters, plain, learned in (
        ("tiny", 768, "28.6", ("4.5", 82.1), ("5.0", 82.5)),
        ("small", 768, "50.2", ("8.7", 83.1), ("9.5", 83.7)),
        ("base", 1024, "88.6", ("15.4", 83.8), ("16.5", 84.1)),
    ):
        backbone = dict(type="ConvNeXt", arch=arch, out_indices=(3,))
        name = f"ConvNeXt-{arch[0].upper()}"
        for model, (multiply_adds, top1), options in (
            (name, plain, {}),
            (f"{name}-dcls", learned, dict(conv_cfg=dict(type="DCLS"))),
        ):
            network = _classifier(backbone | options, channels)
            accuracy = f"top-1 {top1}"
            yield row(model, network, parameters, multiply_adds, base=name, accuracy=accuracy)


def _dk() -> Iterator[Row]:
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
    norms = "the paper counts two operations a number for norms, too"
    resampling = "how the paper counts resampled 1x1 kernels was not found"
    experts = (
        "the paper's figure comes near a convolution for each expert, not one for their mixture"
    )

    def group(
        table: str, base: str, backbone: dict[str, Any], channels: int, why: str, *rest: Any
    ) -> Iterator[Row]:
        for what, swaps, parameters, multiply_adds, top1, *notes in rest:
            yield Row(
                table,
                f"{base}, {what}" if what else base,
                _classifier(backbone, channels, *swaps),
                parameters,
                multiply_adds,
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


def _dke() -> Iterator[Row]:
    plain = "no reading was found that gives the paper's plain figure; compare the increases"
    learned = f"{plain}, which follow no rule that the paper's three networks share"
    deformable = dict(type="DCNv2", deform_groups=1)
    resnet = dict(type="mmdet.ResNet", out_indices=(3,))
    # 'Special' layers: all of AlexNet's, the last 12 and 30 of 3x3. The paper's DCN, with masks,
    # leaves AlexNet's first out.
    every, later = dict(pattern="backbone.*"), dict(regex=r"backbone\.features\.(3|6|8|10)")
    last = dict(pattern="backbone.layer[234].*", kernel_size=3)
    for base, backbone, channels, options, rows in (
        (
            *("AlexNet", dict(type="AlexNet"), 256, dict(hidden=(4096, 4096))),
            (
                (None, None, "61.1", "0.78", 42.8),
                ("ACU", every | dict(conv=dict(type="ACU")), "61.1", "0.78", 42.2),
                ("DCN", later | dict(conv=deformable), "61.4", "0.90", 40.7),
                ("DKE", every | dict(conv=dict(type="DKE")), "61.2", "0.82", 39.1),
            ),
        ),
        (
            *("ResNet-18", resnet | dict(depth=18), 512, {}),
            (
                (None, None, "11.7", "1.83", 30.8),
                ("DKE", last | dict(conv=dict(type="DKE")), "11.9", "1.88", 27.15),
            ),
        ),
        (
            *("ResNet-101", resnet | dict(depth=101), 2048, {}),
            (
                (None, None, "44.5", "7.9", 22.7),
                ("ACU", last | dict(conv=dict(type="ACU")), "44.5", "7.9", 21.9),
                ("DCN", last | dict(conv=deformable), "46.5", "8.3", 21.6),
                ("DKE", last | dict(conv=dict(type="DKE")), "44.6", "8.0", 21.1),
            ),
        ),
    ):
        for operator, swap, parameters, multiply_adds, error in rows:
            network = _classifier(backbone, channels, *([swap] if swap else []), **options)
            name = f"{operator}-{base}" if operator else base
            yield Row(
                "DKE, table 1",
                name,
                network,
                parameters,
                multiply_adds,
                base=base,
                accuracy=f"top-1 error {error}",
                note=learned if operator == "DKE" else plain,
            )


def _drconv() -> Iterator[Row]:
    row = partial(Row, "DRConv, table 1", unit=MILLION)
    drconv = dict(type="DRConv", regions=8, base_weight=False)
    condconv = dict(type="CondConv", num_experts=8)
    norms = "the paper counts an operation a number for norms, too; compare the increases"
    blocks = dict(pattern="backbone.stage*.branch2.*", kernel_size=1)
    between = "the paper's lies between a guide for each 1x1 and one for each block"

    def group(base: str, plain: dict[str, Any], *rest: Any) -> Iterator[Row]:
        yield row(base, plain, multiply_adds=rest[0], accuracy=rest[1], note=rest[2])
        for name, network, multiply_adds, accuracy, note, *unguided in rest[3:]:
            yield row(
                name.format(base),
                network,
                multiply_adds=multiply_adds,
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
        condconvs = _classifier(plain, 1024, blocks | dict(conv=condconv))
        yield from group(
            f"ShuffleNetV2 {width:g}x",
            _classifier(plain, 1024),
            *(printed[0], f"top-1 {top1[0]}", norms),
            ("CondConv-{}", condconvs, printed[1], f"top-1 {top1[1]}", norms),
            ("DRConv-{}", _classifier(learned, 1024), printed[2], f"top-1 {top1[2]}", norms),
        )

    pointwise = dict(pattern="backbone.*", kernel_size=1, conv=drconv)
    plain = dict(type="mmdet.MobileNetV2", out_indices=(7,))
    all_but_stem = dict(pattern="*", exclude="backbone.conv1.*", conv=condconv)
    learned = _classifier(plain, 1280, pointwise)
    yield from group(
        "MobileNetV2",
        _classifier(plain, 1280),
        *("300", "top-1 72.0", "the paper cuts 300.8 off"),
        (
            "CondConv-{}, classifier too",
            _classifier(plain, 1280, all_but_stem),
            "329",
            "top-1 74.6",
            "",
        ),
        ("DRConv-{}", learned, "328", "top-1 75.7", between),
        ("DRConv-{}, a guide a block", learned, "328", "", between, "*linear_conv*"),
    )

    quoted = "the row seems to be quoted from the CondConv paper, which counted otherwise"
    bias = "with the biases of the guides, which are not counted here, it is the paper's"
    plain = dict(type="MobileNetV1", out_indices=(4,))
    all_but_stem = dict(pattern="*", exclude="backbone.conv_stem", conv=condconv)
    yield from group(
        "MobileNetV1",
        _classifier(plain, 1024),
        *("569", "top-1 70.6", ""),
        (
            *("CondConv-{}, classifier too", _classifier(plain, 1024, all_but_stem)),
            *("600", "top-1 73.7", quoted),
        ),
        ("DRConv-{}", _classifier(plain, 1024, pointwise), "610", "top-1 75.5", bias),
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
        ("DRConv-{}, a guide a block", face(drconv), "201", "", between, "2.*.2"),
    )


def _of_configs(root: Path) -> Iterator[Row]:
    """Rows that ``model-index.yml`` gives."""
    for path in yaml.safe_load((root / "model-index.yml").read_text())["Import"]:
        for model in yaml.safe_load((root / path).read_text())["Models"]:
            metadata = model["Metadata"]
            if "Published In" not in metadata:
                continue
            metrics = [result["Metrics"] for result in model.get("Results", [])]
            yield Row(
                metadata["Published In"],
                metadata["Published As"],
                str(root / model["Config"]),
                metadata.get("Parameters (M)"),
                metadata.get("Multiply-Adds (G)"),
                elementwise=True,
                accuracy=", ".join(f"{k} {v}" for part in metrics for k, v in part.items()),
            )


def increase(row: Row, table: Sequence[Row]) -> tuple[str, str]:
    """What a row adds to its base, ours and the paper's, in multiply-adds; empty without one."""
    base = next((other for other in table if other.model == row.base), None)
    if base is None or base is row or row.multiply_adds is None:
        return "", ""
    ours = row.ours[1] - base.ours[1]
    digits = _digits(row.multiply_adds)
    theirs = float(row.multiply_adds) - float(base.multiply_adds)
    return f"{ours:+.{digits + 1}f}", f"{theirs:+.{digits}f}"


def as_markdown(table: Sequence[Row]) -> str:
    """The rows of one table as Markdown."""
    unit = "M" if table[0].unit == MILLION else "G"
    heads = [
        *("model", "parameters (M)", "paper", "difference"),
        *(f"multiply-adds ({unit})", "paper", "difference", "increase", "paper"),
        *("accuracy: the paper's", "trained here", "why it differs"),
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in table:
        cells = [row.model]
        for ours, theirs, agrees in zip(row.ours, row.printed, row.agrees(), strict=True):
            digits = 1 if theirs is None else _digits(theirs) + (not agrees)
            cells.append(f"{ours:.{digits}f}")
            difference = "0" if agrees else theirs and f"{ours - float(theirs):+.{digits}f}"
            cells += [theirs or "", difference or ""]
        cells += [*increase(row, table), row.accuracy, "no" if row.accuracy else ""]
        lines.append([*cells, row.note if False in row.agrees() else ""])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(rows: Sequence[Row]) -> str:
    """All tables as a page of documentation, in Markdown."""
    by_table: dict[str, list[Row]] = {}
    for row in rows:
        by_table.setdefault(row.table, []).append(row)
    papers = list(dict.fromkeys(table.split(",")[0] for table in by_table))
    parts = [_HEAD]
    for table in sorted(by_table, key=lambda t: (papers.index(t.split(",")[0]), t)):
        parts.append(f"## {table}\n\n{as_markdown(by_table[table])}\n")
    return "\n".join(parts)
