"""A recommendation: configurations ranked for a target, with what is expected of each and on what evidence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from adapters import AdapterConfig
from selection.recommendation.explanation import explain
from selection.recommendation.fisher_by_block import FisherByBlock
from selection.recommendation.prediction import interval_around
from selection.store import BackboneFacts


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration with what is expected of it.

    Attributes:
        config: The configuration.
        predicted: Expected top-1 accuracy. It is what the linear probe reaches and the gain that is expected of tuning,
            which may lead above 1 where the linear probe is nearly perfect.
        std: Standard deviation of what a trial would score; NaN where the recommender does not know.
        parameters: Trainable parameters beside the classifier's.
        seconds: Expected training time for as many images as the target has, on the machine that made the trials or
            on this one (`Recommendation.timed_here`).
    """

    config: AdapterConfig
    predicted: float
    std: float
    parameters: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """`predicted`, as an accuracy in [0, 1]."""
        return min(1.0, max(0.0, self.predicted))

    @property
    def interval(self) -> tuple[float, float]:
        """Where a trial is expected to score with a chance of 80%, in [0, 1]; NaN without `std`."""
        return interval_around(self.predicted, self.std)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A stored task near the target, and what worked there.

    Attributes:
        task: Its name.
        distance: How far it is from the target.
        score: What the recommended configuration scored there; None if it was not tried.
        best: The configuration that scored best there.
        best_score: Its score.
        level: What a linear probe reaches there.
    """

    task: str
    distance: float
    score: float | None
    best: AdapterConfig
    best_score: float
    level: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Configurations ranked for a target task.

    Attributes:
        config: What to tune; after trials on the target, what to try next.
        ranking: All candidates, best first.
        evidence: The nearest stored tasks with trials, nearest first; only those where the configuration gained what
            it is expected to gain here.
        recommender: Which one of `selection.RECOMMENDERS` it comes from.
        level: Where expectations start from: what a linear classifier reaches on the target, in [0, 1], on the
            backbone's features or, where the stored tasks have no such facts, on the probe's.
        multi_label: Whether that is a share of labels, as the target's images have several each, and not of images.
        num_tasks: How many stored tasks the expectations rest on.
        warm_start: A tuned adapter of the same configuration to start from, where that is expected to help.
        note: What to know about where the evidence comes from; empty if nothing.
        within: How far below the best expectation `config` was allowed to be; None if it had to be the best.
        chance: That it is within that much of the best, in [0, 1]; None without `within` or accuracies.
        timed_here: Whether expected seconds are those of this machine, where a few steps were measured.
        facts: What the target looks like to the backbone; None if nobody looked.
        starts_from_facts: Whether expectations start from these facts.
        fisher: Where the backbone's Fisher on the target lies, beside that on the stored tasks; None if it was not
            measured.
        image_size: `(channels, height, width)` as the backbone took the stored tasks' images; None where that is not
            known, or not one for all of them.
    """

    config: AdapterConfig
    ranking: tuple[Candidate, ...]
    evidence: tuple[Evidence, ...]
    recommender: str
    level: float
    num_tasks: int
    warm_start: Path | None = None
    note: str = ""
    multi_label: bool = False
    within: float | None = None
    chance: float | None = None
    timed_here: bool = False
    facts: BackboneFacts | None = None
    starts_from_facts: bool = False
    fisher: FisherByBlock | None = None
    image_size: tuple[int, int, int] | None = None

    @property
    def candidate(self) -> Candidate:
        """The recommended configuration with what is expected of it."""
        return next(c for c in self.ranking if c.config == self.config)

    @property
    def predicted(self) -> float:
        """Its expected top-1 accuracy, in [0, 1]."""
        return self.candidate.accuracy

    @property
    def std(self) -> float:
        """Standard deviation of what a trial of it would score."""
        return self.candidate.std

    @property
    def is_calibrated(self) -> bool:
        """Whether predictions are accuracies with a spread that was measured, and not only an order: the recommender
        gives one, and the trials it rests on used the backbone asked for.
        """
        return bool(np.isfinite(self.candidate.std)) and not self.note

    def explain(self) -> str:
        """Why this configuration, in a paragraph."""
        return explain(self)

    def __repr__(self) -> str:
        expected = f", {self.candidate.accuracy:.1%} expected" if self.is_calibrated else ""
        return f"Recommendation({self.config.label}{expected}, of {len(self.ranking)} candidates)"
