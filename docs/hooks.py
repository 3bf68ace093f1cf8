"""Lets pages link to files of the repository, which the site lacks: it shows their paths."""

import re
from typing import Any

# [text](../path): a file beside docs/.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links out of ``docs/`` by the file's path; called by MkDocs for every page."""
    return _OUTSIDE.sub(lambda found: _named(found[1], found[2]), markdown)


def _named(text: str, path: str) -> str:
    path = path.partition("#")[0]
    return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"
