"""Files of results with one JSON object a line, so that what was measured stays when a run is stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line at once; it is far shorter than what the system appends in one piece."""
    with path.open("a") as file:
        file.write(json.dumps(dict(row)) + "\n")
