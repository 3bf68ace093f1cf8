"""Rows of the DKE paper that are only counted."""

from collections.abc import Iterator

from .networks import classifier
from .row import Row


def rows() -> Iterator[Row]:
    plain = "no reading was found that gives the paper's plain figure; compare the increases"
    learned = f"{plain}, which follow no rule that the paper's three networks share"
    deformable = dict(type="DCNv2", deform_groups=1)
    resnet = dict(type="mmdet.ResNet", out_indices=(3,))
    # 'Special' layers: all of AlexNet's, the last 12 and 30 of 3x3. The paper's DCN, with masks,
    # leaves AlexNet's first out.
    every, later = dict(pattern="backbone.*"), dict(regex=r"backbone\.features\.(3|6|8|10)")
    last = dict(pattern="backbone.layer[234].*", kernel_size=3)
    for base, backbone, channels, options, printed in (
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
        for operator, swap, parameters, macs, error in printed:
            network = classifier(backbone, channels, *([swap] if swap else []), **options)
            name = f"{operator}-{base}" if operator else base
            yield Row(
                "DKE, table 1",
                name,
                network,
                parameters,
                macs,
                base=base,
                accuracy=f"top-1 error {error}",
                note=learned if operator == "DKE" else plain,
            )
