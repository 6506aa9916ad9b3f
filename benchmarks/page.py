"""docs/benchmarks.md, one section for each measuring command, which replaces its own section when it is run again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"

# The order of the page; a command without results yet has no section.
SECTIONS = (
    *("correctness", "speed", "fidelity", "public", "variational", "meaning", "labels"),
    *("adapters", "store", "faults", "data", "gpu"),
)

HEAD = """# Benchmarks

Every section is written by the command that stands in it. Ratios compare two things measured in the same run.
"""


def write_section(name: str, title: str, command: str, body: str) -> None:
    """Replace section `name` of the page."""
    sections = dict(re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end -->", PAGE.read_text() if PAGE.exists() else "", re.S))
    sections[name] = f"## {title}\n\n```bash\n{command}\n```\n\n{body.strip()}\n\n"
    blocks = (f"<!-- {known} -->\n{sections[known]}<!-- end -->\n" for known in SECTIONS if known in sections)
    PAGE.write_text("\n".join([HEAD, *blocks]))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])
