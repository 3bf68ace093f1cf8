"""What the documentation says of the catalogue, and where its links lead."""

import inspect
import re

import pytest

from mmlearnconv.catalog import CATALOG, markdown_table
from tests.conftest import ROOT
from tests.tools.pages import RUN, command_lines

PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "configs/*/README.md") for path in ROOT.glob(pattern)
)


def test_the_readme_s_rows_are_the_catalogue_s():
    known = [*markdown_table().splitlines(), *markdown_table(baselines=True).splitlines()]
    rows = [r for r in (ROOT / "README.md").read_text().splitlines() if r.startswith("| [`")]
    assert len(rows) >= 9
    assert set(rows) <= set(known)


@pytest.mark.parametrize("operator", CATALOG, ids=lambda operator: operator.name)
def test_an_operator_s_page_names_its_type_and_its_options(operator):
    page = (ROOT / operator.page).read_text()
    assert re.search(rf"\b{operator.name}\b", page)
    for parameter in inspect.signature(operator.layer).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert f"`{parameter.name}`" in page or f"{parameter.name}=" in page


@pytest.mark.parametrize("page", sorted({operator.page for operator in CATALOG}))
def test_an_operator_s_page_is_complete(page):
    text = (ROOT / page).read_text()
    for part in ("```math", "**When.**", "```python", "**From plain weights**", "**Folds**"):
        assert part in text


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def commands(marked=True):
    """Command lines of the pages, with the page; without those that need data or GPUs if asked."""
    for page in PAGES:
        for line in command_lines(page, marked):
            yield page.relative_to(ROOT), line


def test_commands_run_in_a_test_or_say_what_they_need():
    by_hand = (
        "bash tools/setup_env.sh",
        "bash tools/run_tests.sh",
        "source .venv/bin/activate",
        "FAMILY=openmmlab bash tools/setup_env.sh",
        "source .venv-openmmlab/bin/activate",
        "pip install -e . --no-build-isolation",
        "pre-commit install",
        "pytest ",
        "MMLEARNCONV_TEST_CASES=",
    )
    examples = (  # Of the pages that follow, or of tests/tools.
        "bash tools/quickstart.sh",
        "python tools/train.py configs/quickstart_mask_rcnn_dcls.py",
        "python tools/visualize.py CONFIG CHECKPOINT",
        "python tools/compare.py CONFIG",
        "python tools/demo.py photos CONFIG CHECKPOINT",
    )
    for page, line in commands(marked=False):
        if page.parent.name != "docs" or page.stem not in RUN:
            assert line.startswith(by_hand + examples), f"{page}: {line}"


@pytest.mark.parametrize(
    ("page", "tool", "arguments"),
    [
        (page.name, found[1], found[2])
        for page, line in commands()
        if (found := re.match(r"python (tools/\w+\.py)(.*)", line))
    ],
)
def test_options_in_commands_exist(page, tool, arguments):
    known = (ROOT / tool).read_text() + (ROOT / "mmlearnconv/cli/arguments.py").read_text()
    for option in re.findall(r"(?<!\S)--[\w-]+", arguments):
        assert f'"{option}"' in known, f"{page}: {tool} has no {option}"


def test_the_site_names_every_page():
    site = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf": {page.name}$", site, re.MULTILINE), page.name
