"""What mkdocs does to each page: $formulas$ become MathML, which browsers draw without script or network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)


def on_page_content(content: str, /, **_: Any) -> str:
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    """pymdownx.arithmatex leaves \\(inline\\) and \\[displayed\\] formulas, escaped for HTML."""
    tex = html.unescape(found[2].strip())
    return str(convert(tex[2:-2].strip(), display="block" if tex.startswith("\\[") else "inline"))
