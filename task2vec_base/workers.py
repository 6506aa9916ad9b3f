"""How many worker processes read images."""

from __future__ import annotations

import multiprocessing
import os

MOST_WORKERS = 8


def usual_workers(num_batches: int, *, cheap: bool) -> int:
    """One for each core, `MOST_WORKERS` at most, and none where they would not pay.

    That is for images that cost nothing to read (`cheap`), for a single batch, and where a process cannot be forked, so
    that each worker would load torch anew and the caller's script would have to guard its main part.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forks = multiprocessing.get_start_method() == "fork"
    return 0 if cheap or num_batches < 2 or not forks else min(MOST_WORKERS, cores)
