"""The whole way in one call: embed a task, ask the store, tune what it recommends: once, several times, for an hour."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

import adapters
from adapters import BackboneId
from adapters.data import transform_of
from adapters.losses import LossName, Sampling
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.jobs import Cluster, running_on
from selection.recommendation.facts import facts_of
from selection.recommendation.learning_curves import curves_of
from selection.recommendation.recommend import recommend
from selection.recommendation.result import Recommendation
from selection.results.lock import alone_in
from selection.store import TaskStore, Trial
from selection.tuning.budget import Clock
from selection.tuning.one import Tuned, decoded, splits_of, tune_alone, write
from selection.tuning.search import Search
from selection.tuning.workplace import Workplace, check_no_tries
from task2vec import Compute, Probe, Splits, Task, TaskEmbedding, embed, load_probe


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
        SelectionError: there is no try, no time, `within` with several tries, or `out` lies among the images.
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
    splits = splits_of(task, out)
    splits.train.learnable()
    folder = None if out is None else Path(out)
    if cluster is not None and folder is not None:
        check_no_tries(folder)
    with alone_in(out, several=most > 1), running_on(cluster) as runner:
        splits = decoded(splits, probe.transform, transform_of(model), compute=compute, progress=progress)
        embedding = embed(splits.train, probe, compute=compute, seed=seed, progress=progress)
        facts = None
        if not splits.train.multi_label:
            facts = facts_of(splits.train, model, compute=compute, progress=progress)
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
        workplace = Workplace(training, model, splits, curves_of(evidence, BackboneId.of_model(model)), compute, folder)
        if cluster is None:
            best, recommendation = workplace.here(search, several=most > 1, progress=progress)
            failed: tuple[str, ...] = ()
        else:
            best, recommendation, failed = workplace.on(runner, cluster.compute(compute), search, progress=progress)
        if folder is not None:
            write(best, splits, folder, recommendation, num_tries=len(search.trials))
        return AutoTuned(
            **vars(best), embedding=embedding, recommendation=recommendation, trials=tuple(search.trials), failed=failed
        )


def _check(tries: int | None, seconds: float | None, within: float | None, *, several: bool) -> None:
    if tries is not None and (tries < 1 or tries != int(tries)):
        raise SelectionError(f"tries={tries} is no number of tries; give at least 1")
    if seconds is not None and not seconds > 0:
        raise SelectionError(f"seconds={seconds} leaves no time; give more than 0")
    if within is not None and several:
        raise SelectionError(f"within={within} names one configuration; leave it out where several are tried")
