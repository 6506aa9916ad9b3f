"""The command line: `task2vec embed | distance | nearest | recommend | tune | merge | store | demo`."""

from selection.cli.app import app, main

__all__ = ["app", "main"]
