"""Published figures, reproduced to the printed digit or explained."""

import pytest

from benchmarks.papers.table import increase, page, rows
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table():
    return rows(ROOT)


def of(table, name):
    return [row for row in table if row.table == name]


@pytest.mark.xdist_group("paper_tables")
def test_every_row_agrees_or_says_why_not(table):
    for row in table:
        assert False not in row.agrees() or row.note, (row.model, row.ours, row.printed)


@pytest.mark.xdist_group("paper_tables")
@pytest.mark.parametrize("name", ["DK, table 1", "DK, table 2"])
def test_dk_has_the_printed_parameters(table, name):
    checked = [row.agrees()[0] for row in of(table, name) if row.parameters]
    assert len(checked) >= 10
    assert all(checked)


@pytest.mark.xdist_group("paper_tables")
def test_dcls_has_the_printed_figures(table):
    printed = {}
    for number in (1, 2, 3, 4):
        for row in of(table, f"DCLS, table {number}"):
            assert False not in row.agrees(), (row.model, row.ours)
            printed[row.model] = row.printed
    assert printed["ResNet-50-dcls"] == ("24.0", None)
    assert printed["ConvNeXt-T-dcls"] == ("28.6", "5.0")
    assert printed["ConvNeXt-S-dcls"] == ("50.2", "9.5")
    assert printed["ConvNeXt-B-dcls"] == ("88.6", "16.5")
    assert printed["Cascade Mask R-CNN, ConvNeXt-T-dcls"] == ("86", "751")
    assert printed["Cascade Mask R-CNN, ConvNeXt-S-dcls"] == ("108", "844")
    assert printed["Cascade Mask R-CNN, ConvNeXt-B-dcls"] == ("146", "987")
    assert printed["UPerNet, ConvNeXt-T-dcls"] == ("60", "950")
    assert printed["UPerNet, ConvNeXt-S-dcls"] == ("82", "1045")
    assert printed["UPerNet, ConvNeXt-B-dcls"] == ("122", "1193")


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
    assert float(row.macs) - float(base.macs) == printed
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
