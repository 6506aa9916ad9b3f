"""Jobs on the machines of a Ray cluster. Ray is imported when it is asked for, and nowhere else."""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from selection.errors import SelectionError
from selection.jobs.job import Failure, Job, Outcome, one_line
from task2vec import Compute

RETRIES = 5  # of a job whose worker or machine was lost
AHEAD = 2  # jobs that are handed to the cluster, as a multiple of those that it has room for
FEWEST_AHEAD = 8
ANSWERS = 10.0  # seconds in which a head that is there answers
END: Any = object()  # of the jobs
LOOK_AGAIN = 1.0  # seconds after which the cluster is asked anew how large it is


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The Ray cluster to run on, and what each job gets of it.

    Attributes:
        address: `HOST:PORT` of the cluster's head; if not given, that in `RAY_ADDRESS`, or the cluster that this
            machine belongs to, or one of this machine alone that ends with the run.
        cpus: CPUs of a job, which is also how many threads it computes with.
        gpus: GPUs of a job, or a share of one such as 0.25; if not given, 1 where the cluster has any.
        memory: Memory that is set aside for a job, in GB; none if not given, so that CPUs and GPUs decide.

    Raises:
        SelectionError: a job would get less than nothing, or no CPU.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no cluster can give."""
        if self.cpus <= 0 or (self.gpus or 0) < 0 or (self.memory or 0) < 0:
            raise SelectionError(
                f"a job cannot get {self.cpus:g} CPUs, {self.gpus or 0:g} GPUs and {self.memory or 0:g} GB; give more"
            )
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise SelectionError(f"a job cannot get {self.gpus:g} GPUs; give a whole number, or a share below 1")

    def compute(self, compute: Compute) -> Compute:
        """How a job computes: its CPUs beside the one that computes read images, unless something else is asked for."""
        return dataclasses.replace(compute, workers=int(self.cpus - 1)) if compute.workers == "auto" else compute


@contextmanager
def connected(cluster: Cluster) -> Iterator[RayRunner]:
    """What runs jobs on the cluster; one that is started for this ends with it.

    Raises:
        SelectionError: Ray is not installed, or no cluster answers, or has room for a job.
    """
    ray = _ray()
    _check_answers(cluster.address or os.environ.get("RAY_ADDRESS", ""))
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = cluster.address or os.environ.get("RAY_ADDRESS") or "this machine"
            raise SelectionError(
                f"Ray does not run on {where} ({one_line(error)}); start it with ray start --head, or give another "
                "address as HOST:PORT"
            ) from error
    try:
        yield RayRunner(ray, cluster)
    finally:
        if ours:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Ask a head for an answer, if it is named: Ray would end this process where there is none.

    Raises:
        SelectionError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERS).close()
    except OSError as error:
        raise SelectionError(
            f"no Ray cluster answers at {address} ({error}); start one with ray start --head --port {port}, or give "
            "the address of one that runs"
        ) from error


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    try:
        import ray
    except ImportError as error:
        raise SelectionError(
            "Ray is not installed, which runs jobs on several machines; pip install 'task2vec-select[ray]'"
        ) from error
    return ray


class RayRunner:
    """Runs jobs as Ray tasks.

    Ray sends a job to another worker where the one that had it is lost; a job that fails by itself is not run again.
    What is shared is made in this process, where the files are, and goes to each other machine once: jobs on the same
    machine read the same memory.

    Args:
        ray: The module, connected to a cluster.
        cluster: What each job gets.
    """

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self._ray = ray
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        self._needs = {"CPU": cluster.cpus, "GPU": float(has_gpus) if cluster.gpus is None else cluster.gpus}
        self._memory = 0 if cluster.memory is None else int(cluster.memory * 1e9)
        self._attempt = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_attempt)
        self._looked, self._has_room = -math.inf, 0
        self._check_room()

    def share(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Runner`."""
        try:
            return self._ray.put(function(*arguments))
        except Exception as error:
            return Failure.of(name, error)

    def run(self, jobs: Iterable[Job | None], *, early: bool = True) -> Iterator[list[Outcome]]:
        """See `Runner`."""
        waiting, running, is_all = iter(jobs), dict[Any, Job](), False
        try:
            while True:
                while not is_all and len(running) < (self._ahead() if early else max(1, self._room())):
                    job = next(waiting, END)
                    if job is END or (job is None and not running):
                        is_all = True
                        continue
                    if job is None:
                        break
                    broken = next((a for a in job.arguments if isinstance(a, Failure)), None)
                    if broken is not None:
                        yield [(job, dataclasses.replace(broken, name=job.name))]
                    else:
                        running[self._submit(job)] = job
                if not running:
                    return
                done, _ = self._ray.wait(list(running), num_returns=1, timeout=LOOK_AGAIN)
                if done:
                    done, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
                outcomes = [(running[reference], self._outcome(running[reference], reference)) for reference in done]
                for reference in done:
                    del running[reference]
                if outcomes:
                    yield outcomes
        finally:
            for reference in running:
                with suppress(self._ray.exceptions.RayError):  # a cluster that is gone runs nothing
                    self._ray.cancel(reference, force=True)

    def _submit(self, job: Job) -> Any:
        options = self._attempt.options(
            name=job.name, num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"], memory=self._memory or None
        )
        return options.remote(job.name, self._needs["CPU"], job.function, *job.arguments)

    def _outcome(self, job: Job, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Failure.of(job.name, error)

    def _ahead(self) -> int:
        """How many jobs to hand to the cluster: enough to keep it busy, and to let it grow where it can."""
        return max(FEWEST_AHEAD, AHEAD * self._room())

    def _room(self) -> int:
        """How many jobs the cluster can run at once, as of a moment ago."""
        if time.monotonic() - self._looked > LOOK_AGAIN:
            self._looked = time.monotonic()
            needs = {kind: amount for kind, amount in (self._needs | {"memory": self._memory}).items() if amount}
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._has_room = sum(int(min(has.get(kind, 0) / n for kind, n in needs.items())) for has in machines)
        return self._has_room

    def _check_room(self) -> None:
        """Make sure that a machine of the cluster can hold a job, which would wait for ever otherwise.

        Raises:
            SelectionError: none can.
        """
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needs = self._needs | {"memory": self._memory}
        if not any(all(has.get(kind, 0) >= amount for kind, amount in needs.items()) for has in machines):
            largest = {kind: max(has.get(kind, 0) for has in machines) for kind in needs}
            raise SelectionError(
                f"no machine of the cluster has {needs['CPU']:g} CPUs, {needs['GPU']:g} GPUs and "
                f"{needs['memory'] / 1e9:g} GB for a job; they have up to {largest['CPU']:g} CPUs, "
                f"{largest['GPU']:g} GPUs and {largest['memory'] / 1e9:.1f} GB (a cluster that grows by itself "
                "needs one machine to begin with)"
            )


def _attempt(name: str, cpus: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a job gives, or its `Failure`: an error that another process cannot unpickle would be lost."""
    torch.set_num_threads(max(1, int(cpus)))
    try:
        return function(*arguments)
    except Exception as error:
        return Failure.of(name, error)
