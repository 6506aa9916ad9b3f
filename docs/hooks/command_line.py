"""Writes the help of every command into the page that stands for them, so that the page cannot fall behind."""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from selection.cli import app

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark by the commands' help."""
    if MARK not in markdown:
        return markdown
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="task2vec")
    text = get_docs_for_click(obj=command, ctx=context, name="task2vec")
    return markdown.replace(MARK, text.split("\n", 1)[1])
