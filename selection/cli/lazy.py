"""Commands that are imported when they are used, so that the list of all of them needs neither torch nor timm."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


class LazyCommand(TyperCommand):
    """A stand-in that knows a command's name and what it does, and becomes the command when it is called.

    Args:
        name: What the user types.
        place: Module and name of a function or of a `typer.Typer`, as `module:name`.
        summary: The first sentence of its help.
    """

    def __init__(self, name: str, place: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._place = place

    def load(self) -> Any:
        """The command itself."""
        module, _, attribute = self._place.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app = found
        else:
            app = typer.Typer(add_completion=False)
            app.command(self.name)(found)
        command = typer.main.get_command(app)
        command.name = self.name
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """The context of the command itself, which is what typer then runs, completes or explains."""
        return self.load().make_context(*args, **kwargs)
