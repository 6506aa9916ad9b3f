"""The command line `task2vec`: a file for each group of commands, put together in `app`."""

from selection.cli.app import app, main

__all__ = ["app", "main"]
