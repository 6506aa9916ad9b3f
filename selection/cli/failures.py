"""Errors of this package and of those below it as one sentence for the user: what, where, what to do.

Kinds are known by their names, so that a package that was never loaded is not loaded to name its errors.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

BAD_INPUT, UNEXPECTED = 2, 1  # exit statuses


class Failure(NamedTuple):
    """What to print, and what to end with."""

    sentence: str
    status: int


def failure_of(error: Exception) -> Failure:
    """What to tell the user of an error; the nearest kind that is known decides."""
    for kind in type(error).__mro__:
        sentence = SENTENCES.get(f"{kind.__module__.split('.')[0]}.{kind.__name__}")
        if sentence is not None:
            return Failure(sentence(error), BAD_INPUT)
    return Failure(f"{type(error).__name__}: {_first_line(error)}", UNEXPECTED)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "").rstrip(".;: ") or "no reason given"


def _of_file(error: Any) -> str:
    reason = (error.strerror or _first_line(error)).lower()
    where = f" {error.filename}" if error.filename else ""
    remedies = {errno.ENOSPC: "free some space", errno.EACCES: "check its permissions or give another place"}
    return f"{reason}:{where or ' no file named'}; {remedies.get(error.errno, 'check the path and its permissions')}"


def _of_import(error: Any) -> str:
    name = error.name or "a package"
    text = _first_line(error)
    if error.name is None or text != f"No module named {error.name!r}":
        return text
    return f"{name} is not installed; pip install {name.split('.')[0]}"


def _of_database(error: Any) -> str:
    cause = _first_line(getattr(error, "orig", None) or error)
    return f"the database did not do it ({cause}); check its address, that it runs, and that you may write to it"


def _of_memory(error: Any) -> str:
    return (
        f"the memory does not suffice ({_first_line(error)}); free some, or give --device cpu (task2vec tune takes a "
        "smaller --batch-size, with --method)"
    )


def _of_safetensors(error: Any) -> str:
    return f"a safetensors file is damaged ({_first_line(error)}); write or download it again"


SENTENCES: dict[str, Callable[[Any], str]] = {
    "task2vec.Task2VecError": str,
    "adapters.AdapterError": str,
    "selection.SelectionError": str,
    "builtins.OSError": _of_file,
    "builtins.ImportError": _of_import,
    "builtins.MemoryError": _of_memory,
    "torch.OutOfMemoryError": _of_memory,
    "torch.AcceleratorError": lambda error: (
        f"the accelerator failed ({_first_line(error)}); try --device cpu, or start again"
    ),
    "sqlalchemy.SQLAlchemyError": _of_database,
    "safetensors.SafetensorError": _of_safetensors,
    "safetensors_rust.SafetensorError": _of_safetensors,
    "ray.RayError": lambda error: (
        f"the Ray cluster failed ({_first_line(error)}); look at ray status, and run the same command again: it goes "
        "on where it was"
    ),
    "PIL.UnidentifiedImageError": lambda error: f"{_first_line(error)}; give a file of another type",
    "PIL.DecompressionBombError": lambda error: f"{_first_line(error)}; give a smaller image",
    "huggingface_hub.HfHubHTTPError": lambda error: (
        f"the hub refused ({_first_line(error)}); check the name, your login (hf auth login) and the network"
    ),
}
"""By the package and the name of a kind of error, what to say of one."""
