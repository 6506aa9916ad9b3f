"""Embed many data sets, many at once on a cluster, and there a very large one shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from selection.evidence.collection import name_of
from selection.jobs import Cluster, Failure, Failures, Job, Runner, itself, running_on
from selection.jobs.failures import LOGS
from task2vec import Compute, Probe, Task, TaskEmbedding, load_probe
from task2vec.fisher import MEANS
from task2vec.plan import DEFAULT_METHOD, Plan
from task2vec.progress import Report, reporting, silent
from task2vec.shards import add_up, features_of, join, share_of, split
from task2vec.tasks.splits import read_task

SHARD = 2_000  # images, about


def embed_all(
    tasks: Iterable[Task | str | Path],
    probe: Probe | None = None,
    method: str = DEFAULT_METHOD,
    *,
    split_name: str | None = None,
    compute: Compute | None = None,
    cluster: Cluster | None = None,
    images_per_shard: int = SHARD,
    logs: str | Path = LOGS,
    progress: bool = True,
    **settings: Any,
) -> Iterator[TaskEmbedding]:
    """Embed tasks, and give each embedding as it is finished.

    What fails keeps nothing else from being embedded; its traceback is kept in `logs`, and the end is an error.

    Args:
        tasks: Tasks, or folders, zips and tables as for `Task.from_folder` and `Task.from_table`. Every machine of a
            cluster reads files under the same path.
        probe: What to embed with; the bundled probe if not given.
        method: See `task2vec.embed`.
        split_name: Which split of each to take, where they have several.
        compute: Where and how to compute.
        cluster: The Ray cluster to run on; this process, one data set after the other, if not given.
        images_per_shard: On a cluster, a data set of more than twice so many is measured in shards of about this size,
            where the method's Fisher is a mean over images (all but `variational`).
        logs: Folder for the logs of what failed, which are called as the data set is.
        progress: Show progress on standard error.
        settings: Other settings of `task2vec.embed`.

    Raises:
        SelectionError: something failed, after all else was embedded; or there is no such cluster.
        Task2VecError: an unknown method.
    """
    given = [task if isinstance(task, Task) else Path(task).absolute() for task in tasks]  # workers stand elsewhere
    probe, compute, failures = probe or load_probe(), compute or Compute(), Failures(logs)
    settings |= {"method": method, "compute": compute if cluster is None else cluster.compute(compute)}
    with running_on(cluster) as runner, reporting(progress) as report:
        shared = runner.share("probe", itself, probe)
        large: list[Job] = []
        jobs = _jobs(given, split_name, shared, settings, failures, large, images_per_shard if cluster else None)
        sharded = ([(job, _in_shards(runner, job, probe, shared, images_per_shard, report))] for job in large)
        outcomes = failures.sort_out(chain(runner.run(jobs), sharded))
        for done, (_, embedding) in enumerate(chain.from_iterable(outcomes), 1):
            report("Embedding data sets", done, len(given))
            yield embedding
    failures.raise_any()


def _jobs(
    tasks: Iterable[Task | Path],
    which: str | None,
    probe: Any,
    settings: dict[str, Any],
    failures: Failures,
    large: list[Job],
    images_per_shard: int | None,
) -> Iterator[Job]:
    """A job for each task; those that are measured in shards are put aside into `large`."""
    for task in tasks:
        name = name_of(task) if isinstance(task, Path) else task.name
        try:
            read = read_task(task, split=which, name=name) if isinstance(task, Path) else task
            plan = Plan.of(read, **settings)
        except Exception as error:
            failures.add(Failure.of(f"{name}, embedding", error))
            continue
        job = Job(f"{name}, embedding", _embed, (plan, probe))
        if images_per_shard and len(plan.task) > 2 * images_per_shard and plan.method in MEANS:
            large.append(job)
        else:
            yield job


def _embed(plan: Plan, probe: Probe) -> TaskEmbedding:
    return plan.run(probe, silent)


def _in_shards(
    runner: Runner, job: Job, probe: Probe, shared: Any, images_per_shard: int, report: Report
) -> TaskEmbedding | Failure:
    """What a job would give, from the shards of its task."""
    plan: Plan = job.arguments[0]
    whole = runner.share(f"names of the images of {plan.task.name}", itself, plan)
    try:
        features = _each(
            runner,
            f"{job.name}, features of shard",
            features_of,
            [(whole, shared, numbers) for numbers in split(plan, images_per_shard)],
            report,
        )
        if isinstance(features, Failure):
            return features
        joined = join(plan, features)
        classifier = runner.share(f"classifier of {plan.task.name}", itself, joined.classifier)
        given = [(whole, shared, classifier, *shard) for shard in joined.shards]
        shares = _each(runner, f"{job.name}, Fisher of shard", share_of, given, report)
        return shares if isinstance(shares, Failure) else add_up(plan, probe, joined, shares)
    except Exception as error:
        return Failure.of(job.name, error)


def _each(
    runner: Runner, name: str, function: Callable[..., Any], given: list[tuple[Any, ...]], report: Report
) -> list[Any] | Failure:
    """What a function gives for each of some arguments, in their order; or the first failure."""
    found: dict[int, Any] = {}
    jobs = (Job(f"{name} {n} of {len(given)}", function, arguments, n) for n, arguments in enumerate(given, 1))
    for job, outcome in chain.from_iterable(runner.run(jobs)):
        if isinstance(outcome, Failure):
            return outcome
        found[job.about] = outcome
        report(f"{name}s", len(found), len(given))
    return [found[n] for n in sorted(found)]
