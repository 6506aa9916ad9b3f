"""What recommenders expect, against the formulas they state."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor

from adapters import AdapterConfig
from selection.recommenders import RECOMMENDERS, GaussianProcess, Prediction, TaskFacts, TrialTable
from selection.recommenders.best_fixed import best_fixed
from selection.recommenders.features import task_directions
from selection.recommenders.gaussian_process import START, TERMS, _mixture, _observations
from selection.recommenders.nearest_vote import distances_to, nearest_vote, shepard_weights
from selection.recommenders.registry import OWN_ERROR, SHARED_ERROR
from task2vec import distance_matrix, mean_log_embedding
from tests.selection.test_store import embedding

CONFIGS = (
    AdapterConfig("linear"),
    AdapterConfig("ssf"),
    AdapterConfig("ssf", learning_rate=0.03),
    AdapterConfig("lora", rank=4),
    AdapterConfig("lora", rank=16),
)


def table_of(scores):
    scores = np.array(scores, np.float64)
    tasks = tuple(
        TaskFacts(f"task {i}", embedding(f"task {i}", seed=i), f"source {i // 2}") for i in range(len(scores))
    )
    configs = CONFIGS[: scores.shape[1]]
    return TrialTable(tasks, configs, scores, np.arange(len(configs)), np.ones(len(configs)))


@pytest.fixture
def table():
    scores = np.random.default_rng(0).uniform(0.4, 0.9, (8, 5))
    scores[1, 2] = scores[4, 0] = np.nan
    return table_of(scores)


TARGET = TaskFacts("new", embedding("new", seed=99))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_recommender_ranks_the_candidates_it_is_given_in_any_order(table, name):
    found = RECOMMENDERS[name](table, TARGET, table.configs)
    assert found.mean.shape == (5,)
    assert np.isfinite(found.mean).all()
    again = RECOMMENDERS[name](table, TARGET, table.configs[::-1])
    if name != "random":
        np.testing.assert_allclose(again.mean[::-1], found.mean, atol=1e-9)


def test_levels_and_gains_are_the_least_squares_fit(table):
    t, c = np.nonzero(np.isfinite(table.scores))
    design = np.zeros((len(t) + 1, 13))
    design[np.arange(len(t)), t] = design[np.arange(len(t)), 8 + c] = 1
    design[-1, 8:] = 1  # the gains' mean is zero
    solution = np.linalg.lstsq(design, np.append(table.scores[t, c], 0), rcond=None)[0]
    np.testing.assert_allclose(table.levels(), solution[:8], atol=1e-6)
    np.testing.assert_allclose(table.gains(), table.scores - solution[:8, None], atol=1e-6)


def test_a_task_that_tried_only_good_configurations_does_not_look_easy():
    nan = np.nan
    table = table_of([[0.5, 0.9, nan], [0.5, 0.9, 0.52], [nan, 0.9, 0.52], [nan, 0.9, nan]])
    assert best_fixed(table, TARGET, table.configs).choice() == 1
    np.testing.assert_allclose(table.levels(), table.levels()[0], atol=1e-4)


def test_the_vote_is_the_stated_formula(table):
    distances = distances_to(table, TARGET)
    nearest = np.argsort(distances)[:5]
    weights = distances[nearest] ** -2 / (distances[nearest] ** -2).sum()
    gains = table.gains()[nearest]
    tried = np.isfinite(gains)
    share = weights[:, None] * tried
    expected = weights @ table.levels()[nearest] + np.nansum(share * gains, axis=0) / share.sum(axis=0)
    np.testing.assert_allclose(nearest_vote(table, TARGET, table.configs).mean, expected, atol=1e-4)


def test_the_directions_keep_the_log_cosine_distances(table):
    points = task_directions([*table.tasks, TARGET])
    embeddings = [task.embedding for task in [*table.tasks, TARGET]]
    expected = distance_matrix(embeddings, "log_cosine", reference=mean_log_embedding(embeddings))
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared / 2, expected, atol=1e-9)


def test_the_process_predicts_as_a_joint_gaussian_does(table):
    process = GaussianProcess(tuple(START[term] for term in TERMS), 0.002)
    found = process(table, TARGET, table.configs)
    pairs, scores = _observations(table)
    wanted = np.array([(8, c) for c in range(5)], float)
    kernel = _mixture(TERMS, process.amounts, [*table.tasks, TARGET], table.configs, task_directions)
    everything = kernel(np.vstack([pairs, wanted]))
    known, new = slice(0, len(pairs)), slice(len(pairs), None)
    inside = everything[known, known] + 0.002 * np.eye(len(pairs))
    weights = everything[new, known] @ np.linalg.inv(inside)
    np.testing.assert_allclose(found.mean, scores.mean() + weights @ (scores - scores.mean()), atol=1e-8)
    np.testing.assert_allclose(found.covariance, everything[new, new] - weights @ everything[known, new], atol=1e-8)


def test_the_gradient_of_the_mixture_is_that_of_its_likelihood(table):
    pairs, scores = _observations(table)
    kernel = _mixture(TERMS, [START[term] for term in TERMS], table.tasks, table.configs, task_directions)
    process = GaussianProcessRegressor(kernel, alpha=0.002, optimizer=None).fit(pairs, scores - scores.mean())
    theta = kernel.theta
    _, gradient = process.log_marginal_likelihood(theta, eval_gradient=True)
    expected = approx_fprime(theta, lambda x: process.log_marginal_likelihood(x), 1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_learning_finds_an_interaction_where_there_is_one():
    """Half the tasks share one direction and one best method, the other half another."""
    generator = np.random.default_rng(0)
    tasks, scores = [], []
    for i in range(24):
        own = embedding(f"task {i}", seed=i % 2, dimension=200)
        fisher = own.fisher * np.exp(0.3 * generator.standard_normal(200)).astype(np.float32)
        tasks.append(TaskFacts(f"task {i}", dataclasses.replace(own, fisher=fisher), f"source {i // 2}"))
        gain = np.array([0.0, 0.1, 0.1, 0.0, 0.0]) if i % 2 else np.array([0.0, 0.0, 0.0, 0.1, 0.1])
        scores.append(0.6 + gain + 0.01 * generator.standard_normal(5))
    table = TrialTable(tuple(tasks[:-2]), CONFIGS, np.array(scores[:-2]), np.arange(5), np.ones(5))
    process = GaussianProcess.learn(table).calibrated(table)
    for target, best in ((tasks[-2], (3, 4)), (tasks[-1], (1, 2))):
        assert process(table, target, CONFIGS).choice() in best
        assert best_fixed(table, target, CONFIGS).choice() == best_fixed(table, tasks[-2], CONFIGS).choice()
    assert 0.3 < process.widening < 3


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_what_was_seen_enters_as_bayes_says(seed, count):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((5, 5))
    prior = Prediction(generator.uniform(0.3, 0.9, 5), 0.01 * root @ root.T, 0.001)
    seen = [(i, generator.uniform(), generator.uniform(1e-4, 1e-2)) for i in range(count)]
    after = prior.given(seen)
    # Draw from the prior and weigh by the likelihood: the weighted mean is the posterior's.
    errors = np.sqrt([variance for _, _, variance in seen])
    noise = SHARED_ERROR * np.outer(errors, errors) + np.diag(OWN_ERROR * errors**2 + prior.noise)
    precision = np.linalg.inv(prior.covariance + 1e-10 * np.eye(5))
    observe = np.eye(5)[:count]
    covariance = np.linalg.inv(precision + observe.T @ np.linalg.inv(noise) @ observe)
    scores = np.array([score for _, score, _ in seen])
    mean = covariance @ (precision @ prior.mean + observe.T @ np.linalg.inv(noise) @ scores)
    np.testing.assert_allclose(after.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after.covariance, covariance, rtol=1e-2, atol=1e-5)


def test_the_next_try_has_the_largest_expected_improvement():
    covariance = np.diag([1e-6, 0.01, 0.02])
    prediction = Prediction(np.array([0.8, 0.78, 0.7]), covariance, 0.0)
    seen = [(0, 0.8, 1e-6)]
    after = prediction.given(seen)
    draws = multivariate_normal(after.mean, after.covariance + 1e-12 * np.eye(3), seed=0).rvs(200_000)
    improvement = np.maximum(draws - after.mean[0], 0).mean(axis=0)
    assert prediction.next_try(seen) == 1 + int(np.argmax(improvement[1:]))
    assert prediction.next_try() == 0
    assert prediction.next_try([(0, 0.8, 1e-6), (1, 0.7, 1e-6)]) == 2
    with pytest.raises(ValueError, match="every candidate was tried"):
        prediction.next_try([(i, 0.5, 1e-6) for i in range(3)])


def test_without_a_model_the_best_one_seen_is_chosen():
    prediction = Prediction(np.array([0.3, 0.2, 0.1]))
    assert prediction.choice() == 0
    assert prediction.choice([(0, 0.5, 0.01), (2, 0.7, 0.01)]) == 2
    assert prediction.next_try([(0, 0.5, 0.01)]) == 1


@pytest.mark.parametrize("distances", [[0.0, 1.0], [-0.1, 0.2, 0.3], [0.5, 0.5]])
def test_weights_are_positive_sum_to_one_and_fall_with_distance(distances):
    weights = shepard_weights(np.array(distances))
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights) <= 1e-12).all()
