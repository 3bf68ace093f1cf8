"""All rows, and the page of documentation that they make."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import yaml

from .row import BILLION, MILLION, Row, digits_of

_HEAD = """# The papers' tables

Made by `python benchmarks/paper_tables.py --output docs/paper_tables.md`: it counts all networks,
from the configs that train them. Those without a config are in `benchmarks/papers`: DRConv's faces
(table 2) and the rows beside the papers' own, which read a table in another way.

- Parameters and multiply-adds are ours, the paper's, and the difference, which is 0 where ours is
  the paper's to its last printed digit. An increase is over the plain network of the same table.
- Classification is counted at 224x224 (CIFAR's ResNets at 32x32, faces at 112x96), detectors at
  1280x800 with 1000 proposals and 100 masks, segmentors at 2048x512; multiply-adds of detectors and
  segmentors include those of norms, ReLUs and pooling, as does the counter with which such figures
  are published.
- DK's table 2 repeats the plain rows of its table 1, and DKE's table 4 takes parameters and
  multiply-adds from its table 1. Plain rows of DCLS's tables 3 and 4 take theirs from the ConvNeXt
  paper, tables 3 and 4; accuracies of both tables, and the costs of S and B with DCLS, are those of
  the DCLS authors' repository.
- Nothing here has been trained to these accuracies: they are the papers' figures and our target.
  Weights of plain backbones load into all of these networks except those with orthonormal kernels
  ([pretrained.md](pretrained.md)).
- Rows that the DRConv paper marks with a star (fewer multiply-adds) are left out: no network was
  found that gives their figures. So are SLaK of DCLS's table 2 and ResNet-6 of DKE's table 4, which
  those papers do not describe. CoC has no table of classification; it names a gain on ImageNet.
"""


def rows(root: str | Path) -> list[Row]:
    """All rows: those of the operators' modules here, and those of configs.

    Args:
        root: the folder with ``model-index.yml`` and ``configs``.

    Raises:
        FileNotFoundError: there is no ``model-index.yml``.
    """
    found = []
    for info in iter_modules([str(Path(__file__).parent)]):
        module = import_module(f".{info.name}", __package__)
        if module.__name__ != __name__ and hasattr(module, "rows"):
            found += module.rows()
    return [*_of_configs(Path(root)), *found]


def _of_configs(root: Path) -> Iterator[Row]:
    """Rows that ``model-index.yml`` gives."""
    for path in yaml.safe_load((root / "model-index.yml").read_text())["Import"]:
        for model in yaml.safe_load((root / path).read_text())["Models"]:
            metadata = model["Metadata"]
            if "Published In" not in metadata:
                continue
            metrics = [result["Metrics"] for result in model.get("Results", [])]
            millions = metadata.get("Multiply-Adds (M)")
            for table in _tables(metadata["Published In"]):
                yield Row(
                    table,
                    metadata["Published As"],
                    str(root / model["Config"]),
                    metadata.get("Parameters (M)"),
                    millions or metadata.get("Multiply-Adds (G)"),
                    unit=MILLION if millions else BILLION,
                    base=metadata.get("Increase Over"),
                    # As papers of detectors count.
                    elementwise=not metadata["Training Data"].startswith(("ImageNet", "CIFAR")),
                    size=_size(metadata.get("Image Size")),
                    accuracy=", ".join(f"{k} {v}" for part in metrics for k, v in part.items()),
                    note=metadata.get("Differs Because", ""),
                )


def _size(text: str | None) -> tuple[int, int] | None:
    """'32x48' is 32 rows and 48 columns."""
    if text is None:
        return None
    height, width = map(int, text.split("x"))
    return height, width


def _tables(published: str) -> list[str]:
    """'DK, tables 1 and 2' are two."""
    paper, several, numbers = published.partition(", tables ")
    return [f"{paper}, table {n}" for n in numbers.split(" and ")] if several else [published]


def increase(row: Row, table: Sequence[Row]) -> tuple[str, str]:
    """What a row adds to its base, ours and the paper's, in multiply-adds; empty without one."""
    base = next((other for other in table if other.model == row.base), None)
    if base is None or base is row or row.macs is None:
        return "", ""
    ours = row.ours[1] - base.ours[1]
    digits = digits_of(row.macs)
    theirs = float(row.macs) - float(base.macs)
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
            digits = 1 if theirs is None else digits_of(theirs) + (not agrees)
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
