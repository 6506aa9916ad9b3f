"""What others published for a backbone, where no trials on it are at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.published import published_gains
from selection.recommendation.prediction import Prediction


def with_published(prediction: Prediction, candidates: Sequence[AdapterConfig], backbone: str) -> Prediction | None:
    """With each method's mean moved to what was published for the backbone; None where nothing was.

    Trials on another backbone say which configuration of a method suits the task; which method suits the backbone is
    known better from others who measured on it.
    """
    gains = published_gains(backbone)
    known = [i for i, config in enumerate(candidates) if config.method in gains]
    if not known or prediction.covariance is None:
        return None
    mean = prediction.mean.copy()
    methods = {candidates[i].method for i in known}
    centre = float(np.mean([gains[method] for method in methods]))
    for method in methods:
        own = [i for i in known if candidates[i].method == method]
        mean[own] += prediction.mean[known].mean() - prediction.mean[own].mean() + gains[method] - centre
    return dataclasses.replace(prediction, mean=mean)
