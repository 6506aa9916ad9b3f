"""Tuned adapters beside the database, in directories named by what is in them.

A directory is written under another name, synced, and then renamed: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from adapters import AdapterError, read_metadata
from selection.errors import StoreError

NAMES = ("adapter.json", "adapter.safetensors")
PARTIAL = ".partial"
DIGEST = re.compile(r"[0-9a-f]{32}")
STAYS = 3600.0  # seconds in which a writer has surely finished


class AdapterFiles:
    """Adapters in a directory.

    Args:
        root: Made when the first adapter comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the adapter of that digest lies.

        Raises:
            StoreError: it is no digest, as in a database that somebody else wrote.
        """
        if not DIGEST.fullmatch(digest):
            raise StoreError(
                f"{digest[:100]!r} is no adapter's digest; the store is damaged, run task2vec store verify"
            )
        return self.root / digest

    def keep(self, source: Path) -> str:
        """Copy an adapter, unless it is here already; gives its digest.

        Raises:
            StoreError: there is none at `source`, or it cannot be written here.
        """
        try:
            read_metadata(source)
            digest = digest_of(source)
        except (AdapterError, OSError) as error:
            raise StoreError(f"{source} is not a saved adapter ({error}); give what adapters.save wrote") from error
        target = self.path(digest)
        if target.exists() and digest_of(target) == digest:
            os.utime(target)  # it is needed again, no sweep may take it
            return digest
        temporary = self.root / f"{digest}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            temporary.mkdir(parents=True)
            for name in NAMES:
                shutil.copyfile(source / name, temporary / name)
                _sync(temporary / name)
            if target.exists():  # damaged
                target.rename(self.root / f"{digest}.{uuid.uuid4().hex}.damaged{PARTIAL}")
            try:
                temporary.rename(target)
            except OSError:
                if not target.exists():  # another process was faster
                    raise
            _sync(self.root)
        except OSError as error:
            raise StoreError(f"{self.root} cannot be written ({error.strerror}); nothing was stored") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return digest

    def problem(self, digest: str) -> str:
        """What is wrong with an adapter; empty if nothing."""
        try:
            return "" if digest_of(self.path(digest)) == digest else "differs from what was stored"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except StoreError as error:
            return f"cannot be read ({error})"

    def sweep(self, used: set[str]) -> int:
        """Remove old adapters that no task uses and what killed writers left; gives how many directories."""
        unused = [p for p in self.root.iterdir() if p.name not in used] if self.root.exists() else []
        gone = [path for path in unused if time.time() - path.stat().st_mtime > STAYS]
        for path in gone:
            shutil.rmtree(path)
        return len(gone)


def digest_of(directory: Path) -> str:
    """Hash of an adapter's files."""
    digest = hashlib.sha256()
    for name in NAMES:
        content = (directory / name).read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:32]


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
