"""The cheap scores against their definitions, written out."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from selection.recommendation.transferability import SCORES, Outputs


@pytest.fixture(params=[(40, 6), (12, 30)])
def outputs(request):
    count, width = request.param
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    features = generator.standard_normal((count, width)) + 1.5 * np.eye(3, width)[labels]
    features *= np.linspace(2, 0.3, width)  # of unequal spread, as real ones are
    logits = generator.standard_normal((count, 4)) + 1.5 * np.eye(3, 4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Outputs(features, probabilities, labels)


def test_logme_is_the_largest_evidence_of_a_bayesian_linear_model(outputs):
    count = len(outputs.labels)
    best = []
    for y in outputs.one_hot.T:

        def negative(theta, y=y):
            covariance = outputs.features @ outputs.features.T / np.exp(theta[0]) + np.eye(count) / np.exp(theta[1])
            return -multivariate_normal(np.zeros(count), covariance).logpdf(y)

        starts = [(a, b) for a in (0.0, 4.0) for b in (0.0, 3.0)]
        best.append(-min(minimize(negative, start, method="Nelder-Mead").fun for start in starts) / count)
    assert SCORES["logme"](outputs) == pytest.approx(np.mean(best), abs=2e-3)


def test_leep_is_the_mean_log_likelihood_written_as_loops(outputs):
    p, labels = outputs.probabilities, outputs.labels
    total = 0.0
    for i in range(len(labels)):
        likelihood = 0.0
        for z in range(p.shape[1]):
            conditional = sum(p[j, z] for j in range(len(labels)) if labels[j] == labels[i]) / p[:, z].sum()
            likelihood += conditional * p[i, z]
        total += np.log(likelihood)
    assert SCORES["leep"](outputs) == pytest.approx(total / len(labels))


def test_nce_is_the_negative_conditional_entropy_written_as_loops(outputs):
    named, labels = outputs.probabilities.argmax(axis=1), outputs.labels
    entropy = 0.0
    for z in set(named):
        inside = labels[named == z]
        for y in set(inside):
            entropy -= (named == z).mean() * (inside == y).mean() * np.log((inside == y).mean())
    assert SCORES["nce"](outputs) == pytest.approx(-entropy)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_features_that_tell_the_classes_apart_score_higher_than_shuffled_ones(outputs, name):
    order = np.random.default_rng(1).permutation(len(outputs.labels))
    shuffled = Outputs(outputs.features, outputs.probabilities, outputs.labels[order])
    assert SCORES[name](outputs) > SCORES[name](shuffled)


def test_h_score_of_many_images_is_the_trace_of_the_ratio_of_covariances():
    generator = np.random.default_rng(0)
    labels = np.arange(60_000) % 3
    features = generator.standard_normal((60_000, 4)) + 2 * np.eye(3, 4)[labels]
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])[labels]
    expected = np.trace(np.linalg.inv(np.cov(features.T)) @ np.cov(means.T))
    found = SCORES["h_score"](Outputs(features, np.full((60_000, 2), 0.5), labels))
    assert found == pytest.approx(expected, rel=0.01)
