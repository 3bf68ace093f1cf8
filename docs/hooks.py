"""What the site's pages need beyond Markdown: links out of ``docs/``, and roles of docstrings."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# [text](../path): a file beside docs/.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)([^)]+)\)")
_MATH = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r":math:<code>(.*?)</code>", re.DOTALL)
_DISPLAYED = re.compile(r"<p>\.\. math::\s+(.*?)</p>", re.DOTALL)
_NAME = re.compile(r":(?:attr|class|func|meth|mod):<code>(?:~[\w.]*\.)?([\w.]+)</code>")
_CODE_BLOCK = re.compile(r"<p>\.\. code-block:: \w+</p>")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files that the site lacks by their paths, and blocks of math by MathML."""
    markdown = _MATH.sub(lambda f: f"<div>{convert(f[1], display='block')}</div>", markdown)
    return _OUTSIDE.sub(lambda found: _named(found[1], found[2]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Draw formulas of docstrings as MathML, which needs no script, and leave names as code."""
    content = _FORMULA.sub(lambda found: convert(html.unescape(found[1])), content)
    content = _DISPLAYED.sub(lambda found: _displayed(html.unescape(found[1])), content)
    return _CODE_BLOCK.sub("", _NAME.sub(r"<code>\1</code>", content))


def _named(text: str, path: str) -> str:
    path = path.partition("#")[0]
    return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"


def _displayed(formula: str) -> str:
    # Markdown took one backslash from each line break.
    lines = [line.removesuffix("\\") for line in formula.splitlines()]
    return "".join(convert(line, display="block") for line in lines)
