"""The whole way in one call: embed a task, ask the store, tune what it recommends: once, several times, for an hour."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from torch import nn

import adapters
from adapters import BackboneId
from adapters.data import transform_of
from adapters.losses import LossName, Sampling
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.jobs import Cluster, Failure, Failures, Job, itself, running_on
from selection.jobs.failures import LOGS
from selection.recommendation.facts import facts_of
from selection.recommendation.learning_curves import LearningCurves, curves_of
from selection.recommendation.pace import slowness_of
from selection.recommendation.recommend import recommend
from selection.recommendation.result import Recommendation
from selection.results.lock import alone_in
from selection.store import TaskStore, Trial
from selection.tuning.budget import Clock
from selection.tuning.one import Tuned, decoded, splits_of, tune_alone, write
from selection.tuning.search import Search
from selection.tuning.tries import Packed, Try, attempt, files_of, packed_attempt
from task2vec import Compute, Probe, Splits, Task, TaskEmbedding, embed, load_probe
from task2vec.progress import reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoTuned(Tuned):
    """A tuned model with what led to it.

    Attributes:
        embedding: The task's embedding.
        recommendation: The one that named what was tuned.
        trials: Every configuration that was tried, as they ended; with a score if there were test images.
        failed: Names of tries that ended with an error on a cluster; their tracebacks are in the logs.
    """

    embedding: TaskEmbedding
    recommendation: Recommendation
    trials: tuple[Trial, ...]
    failed: tuple[str, ...] = ()


def auto_tune(
    task: Task | Splits | str | Path,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    store: TaskStore | None = None,
    *,
    probe: Probe | None = None,
    tries: int | None = None,
    seconds: float | None = None,
    max_params: int | None = None,
    max_seconds: float | None = None,
    mergeable_only: bool = False,
    methods: Sequence[str] | None = None,
    within: float | None = None,
    compute: Compute | None = None,
    cluster: Cluster | None = None,
    out: str | Path | None = None,
    loss: LossName = "auto",
    sampling: Sampling = "uniform",
    log: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AutoTuned:
    """Embed a task, recommend a configuration for the backbone, and tune it: once, several times, or for some time.

    Args:
        task: Training images, of which a fifth watches over the training; all splits (`task2vec.read_splits`), whose
            own validation images watch and whose test images give the score; or the path of a folder of either.
        backbone: A timm name, whose pretrained weights are loaded, or a model, which is changed in place; with several
            tries, copies of it.
        store: Where the evidence comes from; the shipped library if not given.
        probe: What the store's tasks were embedded with; the bundled probe if not given.
        tries: How many configurations to tune at most, each chosen in the light of those before; 1 if neither this nor
            `seconds` is given. The best one by the recommender's expectations after all of them is kept.
        seconds: Time to spend on tries, in seconds. The next one has the largest expected improvement a second, and one
            whose learning curve promises nothing is given up. The first one is tuned to its end in any case.
        max_params: See `recommend`.
        max_seconds: See `recommend`.
        mergeable_only: See `recommend`.
        methods: See `recommend`.
        within: See `recommend`; with a single try only.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.
        cluster: The Ray cluster to make tries on, as many at once as it has room for; this process, one after the
            other, if not given. A run on a cluster that is stopped starts its tries anew.
        out: Directory for the result; with several tries, each try has a directory of its own inside.
        loss: See `adapters.fit`; `weighted_cross_entropy` makes all classes count the same.
        sampling: See `adapters.fit`; `balanced` draws all classes equally often.
        log: `csv` or `tensorboard`, to write each epoch's record so too (`adapters.training_log`).
        seed: Fixes the split, the drawn labels, the initial weights and the order of the images.
        progress: Show progress bars on standard error.

    Raises:
        SelectionError: there is no try, no time, or `within` with several tries.
        Task2VecError, RecommendationError, StoreError, AdapterError: see `embed`, `recommend` and `adapters.fit`.
    """
    most = (1 if seconds is None else math.inf) if tries is None else tries
    _check(tries, seconds, within, several=most > 1)
    if log is not None and out is None:
        raise SelectionError(f"log={log!r} needs a folder to write to; give out= too")
    if log is not None and cluster is not None:
        raise SelectionError(f"log={log!r} is written where a training runs; leave it out on a cluster")
    evidence = store if store is not None else load_library()
    compute = compute or Compute()
    probe, model = probe or load_probe(), load_backbone(backbone)
    model.to(compute.device_for(next(model.parameters()).device))
    splits = splits_of(task)
    splits.train.learnable()
    folder = None if out is None else Path(out)
    with alone_in(out):
        splits = decoded(splits, probe.transform, transform_of(model), compute=compute, progress=progress)
        embedding = embed(splits.train, probe, compute=compute, seed=seed, progress=progress)
        facts = None if splits.train.multi_label else facts_of(splits.train, model, compute=compute)
        ask = partial(
            recommend,
            embedding,
            evidence,
            model,
            facts=facts,
            max_params=max_params,
            mergeable_only=mergeable_only,
            methods=methods,
            within=within,
            by_time=seconds is not None,
        )
        training = partial(tune_alone, loss=loss, sampling=sampling, log=log, seed=seed)
        search = Search(ask, Clock(seconds), most, max_seconds, seed=seed, splits=splits)
        work = _Work(training, model, splits, curves_of(evidence, BackboneId.of_model(model)), compute, folder)
        if cluster is None:
            best, recommendation = work.here(search, several=most > 1, progress=progress)
            failed: tuple[str, ...] = ()
        else:
            best, recommendation, failed = work.on(cluster, search, progress=progress)
        if folder is not None:
            write(best, splits, folder, recommendation)
        return AutoTuned(
            **vars(best), embedding=embedding, recommendation=recommendation, trials=tuple(search.trials), failed=failed
        )


def _check(tries: int | None, seconds: float | None, within: float | None, *, several: bool) -> None:
    if tries is not None and tries < 1:
        raise SelectionError(f"tries={tries} tunes nothing; give at least 1")
    if seconds is not None and seconds <= 0:
        raise SelectionError(f"seconds={seconds} leaves no time; give more than 0")
    if within is not None and several:
        raise SelectionError(f"within={within} names one configuration; leave it out where several are tried")


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all tries share.

    Attributes:
        training: `tune_alone` with what all trainings share but `compute` and `progress`.
        model: The backbone.
        splits: The task.
        curves: What stored trials say of where trainings end; None if nothing.
        compute: Where and how.
        out: Folder for the results; None for nowhere.
    """

    training: Callable[..., Tuned]
    model: nn.Module
    splits: Splits
    curves: LearningCurves | None
    compute: Compute
    out: Path | None

    def here(self, search: Search, *, several: bool, progress: bool) -> tuple[Tuned, Recommendation]:
        """Make one try after the other in this process, and give the best; a single one changes the backbone itself."""
        search.clock.slowness = slowness_of(search.first(), self.model, self.splits, self.compute)
        training = partial(self.training, compute=self.compute, progress=progress)
        finished: dict[int, Tuned] = {}
        for one in search.tries():
            assert one is not None  # nothing else runs
            model = copy.deepcopy(self.model) if several else self.model
            out = self._folder(one) if several else self.out
            tried = attempt(training, model, self.splits, self.curves, one, out)
            search.took(one, tried)
            finished[one.number] = tried.tuned
        number, recommendation = search.best()
        return finished[number], recommendation

    def on(self, cluster: Cluster, search: Search, *, progress: bool) -> tuple[Tuned, Recommendation, tuple[str, ...]]:
        """Make tries on a cluster, as many at once as it has room for; the best, and the names of those that failed.

        Raises:
            SelectionError: there is no such cluster, the folder has tries of another run, or no try was finished.
        """
        self._check_no_tries()
        failures = Failures(LOGS if self.out is None else self.out / LOGS)
        compute = cluster.compute(self.compute)
        training = partial(self.training, compute=compute, progress=False)
        finished: dict[int, Packed] = {}
        with running_on(cluster) as runner, reporting(progress) as report:
            model = runner.share("backbone", itself, copy.deepcopy(self.model).cpu())
            splits = runner.share("images", itself, self.splits)
            first = search.first()
            pace = Job("pace", _slowness_there, (first, model, splits, compute))
            for _, slowness in chain(*failures.sort_out(runner.run([pace]))):
                search.clock.slowness = slowness  # where it cannot be measured, the first try tells

            def jobs() -> Iterator[Job | None]:
                for one in search.tries():
                    if one is None:
                        yield None
                        continue
                    start = None if one.warm_start is None else files_of(one.warm_start)
                    name = f"{self.splits.train.name}, {one.config.label}, try {one.number}"
                    yield Job(name, packed_attempt, (training, model, splits, self.curves, one, start), one)

            for job, outcome in chain.from_iterable(runner.run(jobs(), early=False)):
                failure = outcome if isinstance(outcome, Failure) else self._take(search, job, outcome)
                if failure is None:
                    finished[job.about.number] = outcome
                else:
                    failures.add(failure)
                    search.failed(job.about)
                report("Tries", len(search.trials), int(min(search.most, len(first.ranking))))
        if not search.has_finished:
            failures.raise_any("no try was finished")
        number, recommendation = search.best()
        best = finished[number].unpack(self.model, self.splits, None).tuned
        return dataclasses.replace(best, out=self.out), recommendation, tuple(failures.names)

    def _take(self, search: Search, job: Job, packed: Packed) -> Failure | None:
        """Write what came of a try, and tell the search; or what went wrong."""
        try:
            tried = packed.unpack(copy.deepcopy(self.model), self.splits, self._folder(job.about))
        except Exception as error:
            return Failure.of(job.name, error)
        search.took(job.about, tried)
        return None

    def _check_no_tries(self) -> None:
        """Keep the tries of two runs apart: which configuration gets which number depends on what ends first.

        Raises:
            SelectionError: the folder has some.
        """
        if self.out is not None and any(self.out.glob("try-*")):
            raise SelectionError(f"{self.out} has tries of an earlier run; give another folder, or remove it")

    def _folder(self, one: Try) -> Path | None:
        return None if self.out is None else self.out / f"try-{one.number}"


def _slowness_there(first: Recommendation, model: nn.Module, splits: Splits, compute: Compute) -> float:
    """`slowness_of` on the machine that it is called on, and its accelerator."""
    there = copy.deepcopy(model)
    return slowness_of(first, there.to(compute.device_for(next(there.parameters()).device)), splits, compute)
