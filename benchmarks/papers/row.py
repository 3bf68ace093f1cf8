"""A row of a table: a network, counted, beside what its paper printed."""

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mmengine.registry import init_default_scope
from torch import Tensor

from mmlearnconv import cli
from mmlearnconv.analysis import Complexity, count_complexity
from mmlearnconv.analysis.complexity import PUBLISHED_SIZES
from mmlearnconv.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
MILLION, BILLION = 10**6, 10**9


@dataclass(frozen=True)
class Row:
    """A row of a paper's table.

    Args:
        table: 'DK, table 1'.
        model: its name there.
        network: our network's config, or the file that holds it.
        parameters: as printed, in millions.
        macs: as printed, in ``unit``.
        unit: of multiply-adds, million or billion.
        base: the model in the same table whose figures this one adds to.
        elementwise: whether the table counts operations of norms, ReLUs and pooling.
        unguided: shell-style pattern of layers that use another layer's guide.
        size: height and width of the image; by default those at which such networks are published.
        accuracy: as printed: what training should reach.
        note: why our figure differs.
    """

    table: str
    model: str
    network: Mapping[str, Any] | str
    parameters: str | None = None
    macs: str | None = None
    unit: int = BILLION
    base: str | None = None
    elementwise: bool = False
    unguided: str = ""
    size: tuple[int, int] | None = None
    accuracy: str = ""
    note: str = ""

    @property
    def ours(self) -> tuple[float, float]:
        """Our parameters, in millions, and multiply-adds, in ``unit``."""
        counts = _count(self)
        operations = counts.macs + counts.elementwise * self.elementwise
        for name in fnmatch.filter(counts.layers, self.unguided):
            operations -= counts.layers[name].get("guide", 0)
        return counts.parameters / MILLION, operations / self.unit

    @property
    def printed(self) -> tuple[str | None, str | None]:
        """The paper's parameters and multiply-adds."""
        return self.parameters, self.macs

    def agrees(self) -> tuple[bool | None, bool | None]:
        """Whether each figure is the printed one to its last digit; ``None`` without one."""
        return tuple(
            None if theirs is None else _rounded(ours, theirs) == theirs
            for ours, theirs in zip(self.ours, self.printed, strict=True)
        )


def digits_of(printed: str) -> int:
    """How many digits a printed figure has after the decimal point."""
    return len(printed.partition(".")[2])


def _rounded(ours: float, theirs: str) -> str:
    digits = digits_of(theirs)
    # Half up, as people round.
    return f"{math.floor(ours * 10**digits + 0.5) / 10**digits:.{digits}f}"


# What was counted so far, by the network.
counted: dict[str, Complexity] = {}


def _count(row: Row) -> Complexity:
    key = repr((row.network, row.size))
    if key not in counted:
        if isinstance(row.network, str):
            cfg = cli.read_config(row.network)
            scope = cfg.get("default_scope", "mmdet")
            init_default_scope(scope)
            model, size = cfg.model, row.size or PUBLISHED_SIZES[scope]
        else:
            model, size = dict(row.network), row.size or PUBLISHED_SIZES["mmpretrain"]
        # Drawing weights, which counts do not depend on, would take a quarter of the time.
        undrawn = dict.fromkeys(["uniform_", "normal_"], lambda tensor, *_, **__: tensor)
        with patch.multiple(Tensor, **undrawn):
            network = MODELS.build(model)
        counted[key] = count_complexity(network, size)
    return counted[key]
