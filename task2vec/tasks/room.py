"""How much of a machine's memory and disk may be taken for what would otherwise be computed again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

MEMORY_SHARE = 0.25  # of the machine's, if its user says nothing else
DISK_SHARE = 0.5  # of what is free


@dataclasses.dataclass(frozen=True)
class Room:
    """How many bytes of pixels may be kept, in memory and then in a temporary file."""

    memory: int
    disk: int


def room_for(memory_share: float) -> Room:
    """A share of the machine's memory, and of what is free where temporary files go."""
    return Room(int(memory_share * machine_memory()), int(DISK_SHARE * shutil.disk_usage(tempfile.gettempdir()).free))


def machine_memory() -> int:
    """Bytes of memory that this process may take: the machine's, or less where a container limits it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**33
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total
