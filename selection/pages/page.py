"""The atlas as one HTML page that needs no network: template, style, scripts and data in one file.

Names of tasks and classes come from whoever made the store. They reach the page as JSON in which no character can end
the element that holds it, and scripts put them into text nodes alone. The page's content policy lets it run its own
scripts, known by their hashes, and load nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from selection.pages.data import Atlas

SCRIPTS = ("format", "values", "theme", "charts", "map", "card", "matrix", "filters", "main")
WEBGL_FROM = 2000  # tasks; below, points are drawn as shapes, which every browser can
DIGITS = 5


def page(atlas: Atlas, *, report: bool = False) -> str:
    """The whole page.

    Args:
        atlas: What it shows.
        report: Only the target's card.
    """
    from plotly.offline import get_plotlyjs

    assets = files("selection.pages") / "assets"
    own = "\n".join((assets / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    plotly, script = get_plotlyjs(), f'(() => {{\n"use strict";\n{own}\n}})();'
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {_hashes(plotly, script)}"
    if len(atlas.tasks) >= WEBGL_FROM:
        policy += " 'unsafe-eval'"  # plotly compiles what it tells the graphics card
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        policy=policy,
        title=html.escape(atlas.title),
        style=(assets / "page.css").read_text("utf-8"),
        kind="report" if report else "atlas",
        data=as_json(atlas),
        plotly=plotly,
        script=script,
    )


def as_json(atlas: Atlas) -> str:
    """The atlas as JSON that may stand inside a script element."""
    values = dataclasses.asdict(atlas)
    del values["layout"]["points"]  # every task has its own
    values["webgl"] = len(atlas.tasks) >= WEBGL_FROM
    text = json.dumps(_plain(values), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Lists, and numbers of few digits; what is no number is None."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def _hashes(*scripts: str) -> str:
    """Names of scripts in a content policy."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
