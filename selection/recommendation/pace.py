"""How long a training takes on this machine, from a few measured steps of the real model.

The seconds that stored trials took are those of the machine and of the backbone that made them. What they are good for
is how configurations compare; how long one of them takes here is measured: two short epochs on a few of the task's own
images, the second of which counts, and one pass without learning.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

import adapters
from adapters import METHODS, AdapterConfig, BackboneId
from adapters.data import transform_of
from adapters.sites import image_size
from selection.errors import RecommendationError, SelectionError
from selection.evidence.attached import attach_for
from selection.evidence.validation_split import VALIDATION_SHARE
from selection.recommendation.result import Recommendation
from task2vec import Compute, Splits, Task
from task2vec_base import write_atomically

FEW = 8  # images of a step that shows whether steps are slow enough to be measured so
SLOW = 0.3  # seconds of such a step from which on time goes by images, not by steps
STEPS = 2  # in the epoch that counts
STAYS = 24 * 3600.0  # seconds after which a measurement is made again
CHANGED = 1.0  # load of the machine, in processes, by whose change it is made again at once


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast a configuration learns here.

    Attributes:
        learning: Seconds for each image that is learned from.
        looking: Seconds for each image that is only looked at.
    """

    learning: float
    looking: float

    def seconds(self, config: AdapterConfig, num_training: int, num_validation: int) -> float:
        """Expected seconds of a whole training: E (N_t learning + N_v looking) for E epochs.

        A classifier on frozen features, without augmentation, looks at every image once and learns from what it saw.
        """
        if _learns_from_features(config):
            return (num_training + num_validation) * self.looking + config.epochs * num_training * self.learning
        return config.epochs * (num_training * self.learning + num_validation * self.looking)


def pace_of(model: nn.Module, config: AdapterConfig, task: Task, compute: Compute) -> Pace:
    """The pace of a configuration, measured, or as it was measured here within the last day.

    Args:
        model: The backbone without an adapter; it stays as it is.
        config: What would be tuned.
        task: Images of the kind to learn from.
        compute: Where and how.
    """
    return remembered(_key(model, config, compute), lambda: measured_pace(model, config, task, compute))


def measured_pace(model: nn.Module, config: AdapterConfig, task: Task, compute: Compute) -> Pace:
    """Measure the pace on a few of a task's images."""
    slow = _paced_by(min(FEW, config.batch_size), model, config, task, compute)
    if config.batch_size <= FEW or (slow.learning * FEW > SLOW and not _is_accelerator(model)):
        return slow
    return _paced_by(config.batch_size, model, config, task, compute)


def timed(recommendation: Recommendation, factor: float) -> Recommendation:
    """A recommendation whose seconds are those of this machine.

    Args:
        recommendation: With the seconds of the machine that made the trials.
        factor: How much longer the recommended configuration takes here.
    """
    ranking = tuple(dataclasses.replace(c, seconds=c.seconds * factor) for c in recommendation.ranking)
    return dataclasses.replace(recommendation, ranking=ranking, timed_here=True)


def slowness_of(recommendation: Recommendation, model: nn.Module, splits: Splits, compute: Compute) -> float:
    """How much longer the recommended configuration takes here than where the trials were made; measures a few steps.

    Args:
        recommendation: With the seconds of the machine that made the trials.
        model: The backbone without an adapter; it stays as it is.
        splits: Images to learn from, of which a share watches where there are none to watch.
        compute: Where and how.
    """
    config, expected = recommendation.config, recommendation.candidate.seconds
    count = len(splits.train)
    watching = round(VALIDATION_SHARE * count)  # near enough, also where classes are too small to set images aside
    sizes = (count - watching, watching) if splits.validation is None else (count, len(splits.validation))
    here = pace_of(model, config, splits.train, compute).seconds(config, *sizes)
    return here / expected if expected > 0 else 1.0


def slowness_under(
    max_seconds: float | None, recommendation: Recommendation, model: nn.Module, splits: Splits, compute: Compute
) -> float:
    """How much longer configurations take here that may keep to a time limit: as the recommended one does or, where by
    that none would keep to it, as the quickest one does. Methods differ in it.

    Args:
        max_seconds: That a training may take here; None for any time.
        recommendation: Without a time limit.
        model: See `slowness_of`.
        splits: See `slowness_of`.
        compute: See `slowness_of`.

    Raises:
        RecommendationError: not even the quickest one keeps to it.
    """
    slowness = slowness_of(recommendation, model, splits, compute)
    quickest = min(recommendation.ranking, key=lambda candidate: candidate.seconds)
    if max_seconds is None or quickest.seconds * slowness <= max_seconds:
        return slowness
    slowness = slowness_of(dataclasses.replace(recommendation, config=quickest.config), model, splits, compute)
    if quickest.seconds * slowness > max_seconds:
        raise RecommendationError(
            f"no configuration keeps to max_seconds={max_seconds:g}; the quickest, {quickest.config.label}, takes "
            f"about {quickest.seconds * slowness:.1f} s here"
        )
    return slowness


def in_time(
    ask: Callable[..., Recommendation], max_seconds: float | None, model: nn.Module, splits: Splits, compute: Compute
) -> Recommendation:
    """A recommendation that keeps to a time limit on this machine, by the measured pace of what it recommends.

    Args:
        ask: `recommend` with everything but `max_seconds`.
        max_seconds: That a training may take here; None for any time.
        model: See `slowness_of`.
        splits: See `slowness_of`.
        compute: See `slowness_of`.

    Raises:
        RecommendationError: see `recommend`.
    """
    found = ask(max_seconds=None)
    slowness = slowness_under(max_seconds, found, model, splits, compute)
    if max_seconds is None:
        return timed(found, slowness)
    limit, quickest = max_seconds / slowness, min(candidate.seconds for candidate in found.ranking)
    while True:
        found = ask(max_seconds=max(limit, quickest))
        slowness = slowness_of(found, model, splits, compute)
        seconds = found.candidate.seconds
        if seconds * slowness <= max_seconds or seconds <= quickest:
            return timed(found, slowness)
        limit = math.nextafter(seconds, 0.0)  # this one is slower here than others are


def remembered(key: str, measure: Callable[[], Pace], folder: Path | None = None) -> Pace:
    """What was measured under a key within the last day, while the machine was as busy as now, or what is measured now
    and kept in the user's cache.
    """
    path = (folder or _cache()) / "pace.json"
    known = _known(path)
    found = known.get(key)
    load = _load()
    if found is not None and 0 <= time.time() - found["when"] < STAYS and abs(found["load"] - load) < CHANGED:
        return Pace(found["learning"], found["looking"])
    pace = measure()
    known[key] = dataclasses.asdict(pace) | {"when": time.time(), "load": load}
    with suppress(OSError):  # a cache that cannot be written costs the time of measuring again
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(known, indent=1)))
    return pace


def _paced_by(batch_size: int, model: nn.Module, config: AdapterConfig, task: Task, compute: Compute) -> Pace:
    tuned = copy.deepcopy(model)
    some = task.select(torch.linspace(0, len(task) - 1, min(len(task), STEPS * batch_size)).long().numpy())
    some, bad = some.decode(transform_of(tuned), workers=compute.workers)
    if len(bad) == len(some):
        raise SelectionError(f"none of {len(some)} images of task {task.name!r} can be read, such as {bad[0]}")
    some = some.select([number for number in range(len(some)) if number not in bad])
    short = config.replace(epochs=2, batch_size=batch_size, placement=None)  # as long wherever the parameters are
    attach_for(some, tuned, short, task.num_classes, compute=compute, seed=0)
    fitted = adapters.fit(
        tuned,
        some,
        keep="best",
        autocast=compute.autocast_dtype,
        workers=compute.workers,
        progress=False,
    )
    start = time.perf_counter()
    adapters.evaluate(tuned, some, autocast=compute.autocast_dtype, workers=compute.workers)
    looking = (time.perf_counter() - start) / len(some)
    return Pace(fitted.history[-1]["seconds"] / len(some), looking)


def _learns_from_features(config: AdapterConfig) -> bool:
    return METHODS[config.method].only_classifier and config.augment == "none"


def _load() -> float:
    """How many processes ran at once over the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _is_accelerator(model: nn.Module) -> bool:
    return next(model.parameters()).device.type != "cpu"


def _key(model: nn.Module, config: AdapterConfig, compute: Compute) -> str:
    """What the pace depends on: the model, the shape of what is tuned, the machine, and how it is told to compute."""
    device = next(model.parameters()).device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    shape = config.to_dict()
    for irrelevant in ("learning_rate", "weight_decay", "epochs"):
        shape.pop(irrelevant, None)
    where = (device, card, compute.autocast_dtype, compute.workers, torch.__version__)
    parts = (BackboneId.of_model(model), image_size(model), shape, *where)
    return " | ".join(map(str, parts))


def _known(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text())
        fields = ("learning", "looking", "when", "load")
        return {str(key): {name: float(own[name]) for name in fields} for key, own in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "task2vec"
