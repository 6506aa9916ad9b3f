"""Files of results with one JSON object a line, so that what was measured stays when a run is stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of a file, which must be there: results that cannot be found are not none."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def so_far(path: Path) -> list[dict[str, Any]]:
    """What a run that is resumed has written; nothing if it was never started."""
    return read(path) if path.exists() else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line at once; it is far shorter than what the system appends in one piece."""
    with path.open("a") as file:
        file.write(json.dumps(dict(row)) + "\n")
