"""Formulas become MathML when the book is built: browsers draw it, and nothing is loaded for it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves for a script to find.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
NAMED = re.compile(r"(<mi>(?:cos|exp|log)</mi>)(?!<mo)")  # a function whose argument follows without brackets


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Draw the formulas of a page."""

    def drawn(found: re.Match[str]) -> str:
        latex = unescape(found[2]).strip()
        formula = convert(latex, display="block" if found[1] == "div" else "inline")
        if "\\" in formula:  # what the converter does not know it leaves as it is
            raise PluginError(f"{page.file.src_path} has a formula that cannot be drawn: {latex}")
        return NAMED.sub(r'\1<mspace width="0.167em" />', formula)

    return FORMULA.sub(drawn, html)
