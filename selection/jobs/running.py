"""Choose where jobs run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selection.jobs.cluster import Cluster, connected
from selection.jobs.in_process import InProcess
from selection.jobs.job import Runner


@contextmanager
def running_on(cluster: Cluster | None) -> Iterator[Runner]:
    """What runs jobs on a cluster; in this process if there is none.

    Raises:
        SelectionError: Ray is not installed, or no cluster answers or has room for a job.
    """
    if cluster is None:
        yield InProcess()
    else:
        with connected(cluster) as runner:
            yield runner
