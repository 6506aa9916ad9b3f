"""Trials on the target itself, as evidence about its candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.validation_split import VALIDATION_SHARE
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.prediction import Seen
from selection.store import Trial
from task2vec import TaskEmbedding

TRAINING_SHARE = 1 - VALIDATION_SHARE
VALIDATION_OF_TRAINING = VALIDATION_SHARE / TRAINING_SHARE  # validation images for each that is learned from


def observations(
    trials: Sequence[Trial], candidates: Sequence[AdapterConfig], curves: LearningCurves | None = None
) -> list[Seen]:
    """Which candidates were tried on the target, their validation accuracies, and the variances of these as estimates.

    A candidate that was tried with several seeds counts once, with its mean: all its trials share their images. Of a
    training that was given up, what stored curves expect at its end counts.
    """
    numbers = {config: number for number, config in enumerate(candidates)}
    by_number: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.config in numbers:
            by_number[numbers[trial.config]].append(trial)
    found = []
    for number, own in by_number.items():
        ends = [_end_of(trial, curves) for trial in own]
        accuracy, further = (float(np.mean(values)) for values in zip(*ends, strict=True))
        images = max(1.0, VALIDATION_OF_TRAINING * own[0].num_images)
        found.append((number, accuracy, validation_variance(accuracy, images) + further))
    return found


def _end_of(trial: Trial, curves: LearningCurves | None) -> tuple[float, float]:
    """Validation accuracy at the end of a training, and the variance of what is only expected of it."""
    epochs = trial.config.epochs
    if curves is None or not 0 < len(trial.curve) < epochs:
        return trial.validation, 0.0
    mean, variance = curves.end([accuracy for accuracy, _ in trial.curve], len(trial.curve) / epochs)
    return min(max(mean, 0.0), 1.0), variance


def training_images(embedding: TaskEmbedding) -> float:
    """How many images of a task will be learned from: all of its images, not only those embedded, less validation."""
    return TRAINING_SHARE * embedding.num_images


def validation_variance(accuracy: float, num_images: float) -> float:
    """Variance of an accuracy on so many images, for the accuracy that two more images, one right, would leave."""
    shrunk = (accuracy * num_images + 1) / (num_images + 2)
    return float(shrunk * (1 - shrunk) / num_images)
