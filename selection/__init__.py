"""Which adapter to tune on a new task, from what worked on the tasks nearest to it.

store = selection.load_library()
recommendation = selection.recommend(embedding, store, backbone="task2vec_vit_patch4_32")
result = selection.auto_tune(task, "task2vec_vit_patch4_32", store)
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """The module of each public name, as `__init__.pyi` lists them for readers and type checkers."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_HOMES = _homes()
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """A name's module is loaded when the name is first used: the command line's help needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("adapters")  # before timm: it explains a torchvision that does not fit the installed torch
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
