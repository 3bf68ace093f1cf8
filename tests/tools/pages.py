"""Runs the commands of a page of the documentation, as they stand there."""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.conftest import ROOT
from tests.processes import run_file

# The pages whose commands tests/tools runs.
RUN = ("pretrained", "own_data", "look", "compare", "receptive_fields")


def command_lines(path: Path, marked: bool = True) -> list[str]:
    """The command lines of a page, without comments.

    Args:
        path: of the page.
        marked: whether those of a block that begins with what it needs, data or GPUs, are among
            them. Default: ``True``.
    """
    blocks = re.findall(r"```bash\n(.+?)```", path.read_text(), re.S)
    chosen = [block for block in blocks if marked or not block.startswith("# needs ")]
    lines = [line for block in chosen for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.partition("  #")[0].split()) for line in lines]


def commands(page: str) -> list[str]:
    """The command lines of ``docs/{page}.md``."""
    return command_lines(ROOT / "docs" / f"{page}.md")


def run_page(
    page: str,
    folder: Path,
    options: Callable[[str, str], list[str]],
    after: Callable[[], None] = lambda: None,
    words: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """What every command of the page prints, in the page's order.

    Args:
        page: name of the page.
        folder: where the commands find what they name.
        options: of a tool's name and its command line: what to add, to make it short.
        after: is called after each command.
        words: what stands for a word of the page.
    """
    printed = {}
    for command in commands(page):
        parts = [words.get(word, word) for word in shlex.split(command)]
        parts += options(Path(parts[1]).stem, command)
        environment = os.environ | dict(PYTHONPATH=str(ROOT))
        status, printed[command] = run_file(parts[1:], folder, environment)
        assert status == 0, f"{command}\n{printed[command][-5000:]}"
        after()
    return printed


def link_epoch_12(folder: Path) -> None:
    """Later commands of a page name the checkpoint of epoch 12; tests train one epoch."""
    for checkpoint in folder.glob("work_dirs/*/epoch_1.pth"):
        link = checkpoint.with_name("epoch_12.pth")
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint)
