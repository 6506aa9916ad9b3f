"""Files that are whole or not there."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path

ABANDONED_AFTER = 3600.0  # seconds without a change: whoever wrote that half file was killed


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, then put it in place.

    Whatever happens and whoever else writes it, the file has all of one content. A kill leaves what was there, and a
    half file that a later writer clears away.

    Args:
        path: The file to write; its folder is made if it is not there.
        write: Given the temporary path.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for half in path.parent.glob(f"{escape(path.name)}.*.partial"):
        with suppress(OSError):  # another writer may have cleared it away
            if time.time() - half.stat().st_mtime > ABANDONED_AFTER:
                half.unlink()
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
