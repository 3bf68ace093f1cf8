"""Published figures, reproduced to the printed digit or explained."""

import pickle
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from benchmarks.papers.networks import classifier
from benchmarks.papers.row import Row, counted
from benchmarks.papers.table import increase, page, rows
from tests import libraries
from tests.conftest import ROOT
from tests.processes import call

pytestmark = pytest.mark.slow


def save_counts(path):
    """To be run in a process that may import what it likes."""
    libraries.find()
    MMLogger.get_instance("paper_tables", log_level="ERROR")
    assert all(min(row.ours) > 0 for row in rows(ROOT))
    Path(path).write_bytes(pickle.dumps(counted))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    libraries.need()
    path = tmp_path_factory.mktemp("tables") / "counts"
    call(save_counts, str(path))
    counted.update(pickle.loads(path.read_bytes()))
    return rows(ROOT)


def of(table, name):
    return [row for row in table if row.table == name]


@pytest.mark.xdist_group("paper_tables")
def test_every_row_agrees_or_is_near_and_says_why_not(table):
    differing = [row for row in table if False in row.agrees()]
    assert differing
    for row in differing:
        assert row.note, (row.model, row.ours, row.printed)
        # Counted as a convolution per expert by the paper, as one by us.
        if "a convolution for each expert" in row.note:
            continue
        for ours, theirs in zip(row.ours, row.printed, strict=True):
            assert theirs is None or ours == pytest.approx(float(theirs), rel=0.11), row.model


def test_a_row_that_differs_in_the_last_digit_is_seen():
    network = classifier(dict(type="mmdet.MobileNetV2", out_indices=(7,)), 1280)
    parameters, macs = Row("a table", "a model", network).ours
    for wrong in (0.1, -0.1):
        row = Row("a table", "a model", network, f"{parameters:.1f}", f"{macs + wrong:.1f}")
        assert row.agrees() == (True, False)
        row = Row("a table", "a model", network, f"{parameters + wrong:.1f}", None)
        assert row.agrees() == (False, None)


@pytest.mark.xdist_group("paper_tables")
@pytest.mark.parametrize("name", ["DK, table 1", "DK, table 2"])
def test_dk_has_the_printed_parameters(table, name):
    checked = [row.agrees()[0] for row in of(table, name) if row.parameters]
    assert len(checked) >= 10
    assert all(checked)


@pytest.mark.xdist_group("paper_tables")
def test_dcls_has_the_printed_figures(table):
    """Typed here once more from the papers, and compared without the table's own comparison."""
    counted = {}
    for number in (1, 2, 3, 4):
        for row in of(table, f"DCLS, table {number}"):
            assert False not in row.agrees(), (row.model, row.ours)
            counted[row.model] = row.ours
    for model, parameters, macs in (
        ("ResNet-50-dcls", "24.0", None),
        ("ConvNeXt-T-dcls", "28.6", "5.0"),
        ("ConvNeXt-S-dcls", "50.2", "9.5"),
        ("ConvNeXt-B-dcls", "88.6", "16.5"),
        ("Cascade Mask R-CNN, ConvNeXt-T-dcls", "86", "751"),
        ("Cascade Mask R-CNN, ConvNeXt-S-dcls", "108", "844"),
        ("Cascade Mask R-CNN, ConvNeXt-B-dcls", "146", "987"),
        ("UPerNet, ConvNeXt-T-dcls", "60", "950"),
        ("UPerNet, ConvNeXt-S-dcls", "82", "1045"),
        ("UPerNet, ConvNeXt-B-dcls", "122", "1193"),
    ):
        for ours, theirs in zip(counted[model], (parameters, macs), strict=True):
            if theirs is not None:
                half = 0.5 * 10.0 ** -len(theirs.partition(".")[2])
                assert float(theirs) - half <= ours <= float(theirs) + half, model


@pytest.mark.parametrize(
    ("model", "printed", "within"),
    [
        ("DRConv-MobileNetV1", 41, 1),
        # The difference of two rounded figures.
        ("DRConv-ShuffleNetV2 0.5x", 4, 1),
        ("DRConv-ShuffleNetV2 1x", 10, 1),
    ],
)
@pytest.mark.xdist_group("paper_tables")
def test_drconv_adds_what_the_paper_says(table, model, printed, within):
    of_table = of(table, "DRConv, table 1")
    (row,) = [row for row in of_table if row.model == model]
    (base,) = [other for other in of_table if other.model == row.base]
    assert row.ours[1] - base.ours[1] == pytest.approx(printed, abs=within)
    assert increase(row, of_table) == (f"{row.ours[1] - base.ours[1]:+.1f}", f"+{printed}")


@pytest.mark.xdist_group("paper_tables")
def test_local_dk_adds_what_the_paper_says(table):
    of_table = of(table, "DK, table 1")
    for row in of_table:
        if row.model.startswith("ResNet-50-DW, local"):
            ours, theirs = increase(row, of_table)
            assert f"{float(ours):+.2f}" == theirs == "+0.50"


@pytest.mark.xdist_group("paper_tables")
def test_the_page_of_documentation_is_what_the_tool_makes(table):
    assert (ROOT / "docs" / "paper_tables.md").read_text() == page(table)
