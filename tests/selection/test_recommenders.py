"""What recommenders expect, against the formulas they state."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from adapters import AdapterConfig, BackboneId
from selection import BackboneFacts, TaskFilter, load_library
from selection.evidence.table import TaskFacts, TrialTable, on_equal_terms
from selection.evidence.table import table_of as trials_table
from selection.recommendation.prediction import OWN_ERROR, SHARED_ERROR, Prediction
from selection.recommendation.recommenders import RECOMMENDERS, GaussianProcess, gaussian_process
from selection.recommendation.recommenders.best_fixed import average_gains, best_fixed
from selection.recommendation.recommenders.factorisation import factors_of
from selection.recommendation.recommenders.features import (
    config_numbers,
    probe_directions_by_depth,
    task_directions,
    task_numbers,
)
from selection.recommendation.recommenders.gaussian_process import (
    FARTHEST,
    _Likeness,
    _negative_log_likelihood,
    _Observations,
    kind_of,
    shipped,
    starting_settings,
)
from selection.recommendation.recommenders.nearest_vote import distances_to, nearest_vote, shepard_weights
from selection.recommendation.recommenders.side_information import variances_of
from task2vec import distance_matrix, mean_log_embedding
from task2vec.log_sketch import SKETCH_SIZE, log_sketch
from tests.selection.test_store import embedding

START = starting_settings(3, 0.01) | {"length of fact 0": 0.7}
CONFIGS = (
    AdapterConfig("linear"),
    AdapterConfig("ssf"),
    AdapterConfig("ssf", learning_rate=0.03),
    AdapterConfig("lora", rank=4),
    AdapterConfig("lora", rank=16),
)


def table_of(scores, repeats=None):
    scores = np.array(scores, np.float64)
    repeats = np.ones(scores.shape, np.int64) if repeats is None else repeats
    tasks = tuple(
        TaskFacts(f"task {i}", embedding(f"task {i}", seed=i), f"source {i // 2}") for i in range(len(scores))
    )
    configs = CONFIGS[: scores.shape[1]]
    return TrialTable(tasks, configs, scores, repeats, np.arange(len(configs)), np.ones((len(configs), 2)))


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.4, 0.9, (8, 5))
    scores[1, 2] = scores[4, 0] = np.nan
    return table_of(scores, np.where(np.isnan(scores), 0, generator.integers(1, 4, scores.shape)))


def scale_of(task, power=START["power of what is left"]):
    """By how much what is gained on a task shrinks."""
    return min(1.0, 2 * (1 - task.level)) ** power


def noise_of(table, variance, power=START["power of what is left"]):
    """`(N, N)`, of the scores in a table, where that of a single trial has a variance."""
    scales = np.array([[scale_of(task, power)] for task in table.tasks])
    return np.diag((variance * scales**2 / np.maximum(table.repeats, 1))[np.isfinite(table.scores)])


def with_level(task, level):
    """A task on which a linear probe reaches this."""
    classifier = dataclasses.replace(task.embedding.classifier, accuracy=level, cross_validated=None)
    return dataclasses.replace(task, embedding=dataclasses.replace(task.embedding, classifier=classifier))


TARGET = TaskFacts("new", embedding("new", seed=99))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_recommender_ranks_the_candidates_it_is_given_in_any_order(table, name):
    found = RECOMMENDERS[name](table, TARGET, table.configs)
    assert found.mean.shape == (5,)
    assert np.isfinite(found.mean).all()
    again = RECOMMENDERS[name](table, TARGET, table.configs[::-1])
    if name != "random":
        np.testing.assert_allclose(again.mean[::-1], found.mean, atol=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scores", [[[0.5]], [[0.5, 0.6]], [[0.5], [0.6], [0.7]], [[0.5, 0.6], [0.6, 0.8], [0.7, 0.7]]], ids=str
)
@pytest.mark.parametrize("name", ["boosted_trees", "factorisation", "average", "gaussian_process"])
def test_a_few_trials_are_enough_for_an_expectation(name, scores):
    few = table_of(scores)
    assert np.isfinite(RECOMMENDERS[name](few, TARGET, few.configs).mean).all()


def test_gains_are_counted_from_what_a_linear_probe_reaches(table):
    level = 0.9  # the classifier's cross-validated accuracy of the embeddings here
    np.testing.assert_allclose(table.gains(), table.scores - level)
    looked = [dataclasses.replace(task, backbone_facts=facts(0.1 * i)) for i, task in enumerate(table.tasks)]
    seen = dataclasses.replace(table, tasks=tuple(looked))
    np.testing.assert_allclose(seen.gains(), table.scores - 0.1 * np.arange(8)[:, None])
    np.testing.assert_allclose(seen.without_facts().gains(), table.gains())


def facts(linear_probe):
    return BackboneFacts(
        BackboneId("vit"), 100, 5, linear_probe, (0.3, 0.4, linear_probe), (0.4, 0.5, 0.5, 0.6), 0.5, 2.0
    )


def test_the_likelihood_and_its_gradient_are_those_of_a_joint_gaussian(table):
    seen = _Observations.of(table)
    y = seen.gains
    likeness = _Likeness.of(table.tasks, table.configs, task_directions, task_numbers)
    names, start = zip(*START.items(), strict=True)

    def settings():
        return torch.tensor(start, dtype=torch.float64, requires_grad=True)

    own, expected = settings(), settings()
    found = _negative_log_likelihood(likeness, seen, dict(zip(names, own, strict=True)))
    s = dict(zip(names, expected, strict=True))
    noise = s["noise"] * torch.from_numpy(noise_of(table, 1.0, 0)) * likeness.scale(s)[seen.pairs[:, 0]].square()
    noisy = likeness.kernel(seen.pairs, seen.pairs, s) + noise
    joint = -torch.distributions.MultivariateNormal(torch.zeros_like(y), noisy).log_prob(y)
    assert found.item() == pytest.approx(joint.item() - len(y) * np.log(2 * np.pi) / 2)
    (gradient,), (reference,) = torch.autograd.grad(found, own), torch.autograd.grad(joint, expected)
    torch.testing.assert_close(gradient, reference)


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_wherever_learning_may_look_the_likelihood_and_its_gradient_are_finite(seed):
    """Also where a linear probe is always right, and what is left of a gain all but vanishes."""
    generator = np.random.default_rng(seed)
    table = table_of(generator.uniform(0, 1, (8, 5)), generator.integers(1, 100, (8, 5)))
    levels = generator.choice([0.0, 0.5, 0.99, 1.0], len(table.tasks))
    table = dataclasses.replace(table, tasks=tuple(map(with_level, table.tasks, levels)))
    likeness = _Likeness.of(table.tasks, table.configs, task_directions, task_numbers)
    corner = torch.tensor(list(START.values())).double().log() + torch.from_numpy(
        FARTHEST * generator.choice([-1, 0, 1], len(START))
    )
    corner.requires_grad_()
    found = _negative_log_likelihood(likeness, _Observations.of(table), dict(zip(START, corner.exp(), strict=True)))
    (gradient,) = torch.autograd.grad(found, corner)
    assert found.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("known", "asked", "tasks", "terms"),
    [
        ("mmmmmmmm", "m", 8, "and Fisher"),
        ("mmmmmmmf", "m", 7, "and Fisher"),  # one of another version is left out
        ("mmmfffff", "m", 8, "with facts"),  # too few: none counts
        ("mmmmmmmm", "l", 8, "with facts"),  # the target's images were of another size
        ("mmmmmmmm", "f", 8, "with facts"),
        ("mmmmmmm-", "f", 7, "with facts"),
        ("mmmmmmmm", "-", 8, "without facts"),
        ("mmm-----", "m", 8, "without facts"),
        ("oooooooo", "m", 8, "with facts"),
        ("mmmmmmmm", "o", 8, "with facts"),
    ],
)
def test_no_more_is_used_of_a_target_than_is_known_of_the_stored_tasks(table, known, asked, tasks, terms):
    """-: nobody looked, f: facts alone, m: with the Fisher, l: on larger images, o: as it was kept before, by layer."""
    older = dataclasses.replace(facts(0.5), fisher={"blocks.0.mlp.fc1": 2.0}, image_size=(3, 96, 96))
    measured = dataclasses.replace(older, sketch=(1.0,) * SKETCH_SIZE)
    larger = dataclasses.replace(measured, image_size=(3, 224, 224))
    kinds = {"-": None, "f": facts(0.5), "m": measured, "l": larger, "o": older}
    stored = tuple(dataclasses.replace(t, backbone_facts=kinds[k]) for t, k in zip(table.tasks, known, strict=True))
    found, target = on_equal_terms(
        dataclasses.replace(table, tasks=stored), dataclasses.replace(TARGET, backbone_facts=kinds[asked])
    )
    assert len(found.tasks) == tasks
    assert kind_of(found).endswith(terms)
    assert kind_of(dataclasses.replace(found, tasks=(target,))) == kind_of(found)
    assert len({len(task_numbers([task])[0]) for task in (*found.tasks, target)}) == 1


def test_the_best_fixed_configuration_gained_most_on_the_tasks_that_tried_it():
    nan = np.nan
    table = table_of([[0.5, 0.9, nan], [0.5, 0.9, 0.52], [nan, 0.9, 0.52], [nan, 0.9, nan]])
    found = best_fixed(table, TARGET, table.configs)
    assert found.choice() == 1
    np.testing.assert_allclose(found.mean, TARGET.level + np.array([0.5, 0.9, 0.52]) - 0.9)


def test_a_configuration_that_was_tried_where_there_is_much_to_gain_is_not_the_best_for_that():
    """Of effects of tasks and configurations that add up, those of the configurations come out whatever is missing."""
    generator = np.random.default_rng(0)
    tasks, configs = generator.uniform(0, 0.5, 12), np.array([0.0, 0.1, 0.05])
    whole = tasks[:, None] + configs
    some = np.where(generator.random(whole.shape) < 0.6, whole, np.nan)
    some[:, 0] = whole[:, 0]
    some[np.argsort(tasks)[:6], 2] = np.nan  # the third one, only where there is much to gain
    np.testing.assert_allclose(average_gains(some), whole.mean(axis=0), atol=1e-12)
    assert np.nanmean(some, axis=0).argmax() == 2


def test_the_vote_is_the_stated_formula(table):
    distances = distances_to(table, TARGET)
    table.scores[np.argsort(distances)[:6], 0] = np.nan  # nothing near tried the first one
    expected = []
    for gains in table.gains().T:
        nearest = [t for t in np.argsort(distances) if np.isfinite(gains[t])][:5]
        weights = distances[nearest] ** -2 / (distances[nearest] ** -2).sum()
        expected.append(TARGET.level + weights @ gains[nearest])
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(nearest_vote(table, TARGET, table.configs).mean, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["boosted_trees", "factorisation", "average", "gaussian_process"])
def test_what_a_fact_decides_is_learned_from_other_tasks(name):
    """SSF gains and LoRA loses where the linear probe is poor, and the other way round where it is good."""
    levels = np.linspace(0.2, 0.8, 24)
    gain = np.stack([np.zeros(24), 0.5 - levels, 0.5 - levels, levels - 0.5, levels - 0.5], axis=1)
    table = table_of(levels[:, None] + gain)
    looked = [
        dataclasses.replace(task, backbone_facts=facts(level)) for task, level in zip(table.tasks, levels, strict=True)
    ]
    table = dataclasses.replace(table, tasks=tuple(looked))
    for level, best in ((0.25, "ssf"), (0.75, "lora")):
        target = dataclasses.replace(TARGET, backbone_facts=facts(level))
        found = RECOMMENDERS[name](table, target, CONFIGS)
        assert CONFIGS[found.choice()].method == best
        assert found.mean[found.choice()] == pytest.approx(level + abs(0.5 - level), abs=0.06)


def test_a_factorisation_fills_in_what_factors_tell():
    generator = np.random.default_rng(0)
    whole = generator.standard_normal((30, 2)) @ generator.standard_normal((2, 8))
    holes = np.where(generator.uniform(size=whole.shape) < 0.15, np.nan, whole)
    average, tasks, configs = factors_of(holes)
    missing = np.isnan(holes)
    error = (average + tasks @ configs.T - whole)[missing]
    assert np.square(error).mean() < 0.2 * np.square(whole - np.nanmean(holes, axis=0))[missing].mean()


@given(st.floats(0.0, 1.0), st.floats(0.1, 1.0), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_errors_are_parted_into_what_a_task_shares_and_what_each_has(shared, own, seed):
    generator = np.random.default_rng(seed)
    errors = shared * generator.standard_normal((4000, 1)) + own * generator.standard_normal((4000, 6))
    errors[generator.uniform(size=errors.shape) < 0.1] = np.nan
    found = variances_of(errors)
    np.testing.assert_allclose(found, (shared**2, own**2), rtol=0.1, atol=0.02)


def test_the_directions_keep_the_log_cosine_distances(table):
    points = task_directions([*table.tasks, TARGET])
    embeddings = [task.embedding for task in [*table.tasks, TARGET]]
    expected = distance_matrix(embeddings, "log_cosine", reference=mean_log_embedding(embeddings))
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared / 2, expected, atol=1e-9)


def test_where_the_backbone_was_measured_the_directions_are_those_of_its_own_log_fisher(table):
    generator = np.random.default_rng(0)
    fishers = np.exp(generator.normal(size=(len(table.tasks), 20_000)))
    tasks = [
        dataclasses.replace(task, backbone_facts=dataclasses.replace(facts(0.5), sketch=tuple(log_sketch(fisher))))
        for task, fisher in zip(table.tasks, fishers, strict=True)
    ]
    logs = np.log(fishers) - np.log(fishers).mean(axis=0)
    units = logs / np.linalg.norm(logs, axis=1, keepdims=True)
    found = task_directions(tasks)
    np.testing.assert_allclose(found @ found.T, units @ units.T, atol=4 / SKETCH_SIZE**0.5)
    assert np.abs(found @ found.T - task_directions(table.tasks) @ task_directions(table.tasks).T).max() > 0.2


@pytest.fixture
def process():
    return GaussianProcess(dict(START))


def test_the_process_predicts_as_a_joint_gaussian_does(table, process):
    """The kernel is written out entry by entry, and the Gaussian conditioned by inverting its covariance."""
    levels = np.linspace(0.2, 0.95, len(table.tasks))
    table = dataclasses.replace(table, tasks=tuple(map(with_level, table.tasks, levels)))
    target = with_level(TARGET, 0.8)
    found = process(table, target, table.configs)
    tasks = [*table.tasks, target]
    pairs = np.argwhere(np.isfinite(table.scores))
    everything = np.array([[written_out(a, b, tasks, table.configs) for b in rows(pairs)] for a in rows(pairs)])
    gains = table.gains()[tuple(pairs.T)]
    known, new = slice(0, len(pairs)), slice(len(pairs), None)
    weights = everything[new, known] @ np.linalg.inv(everything[known, known] + noise_of(table, START["noise"]))
    np.testing.assert_allclose(found.mean, 0.8 + weights @ gains, atol=1e-8)
    np.testing.assert_allclose(found.covariance, everything[new, new] - weights @ everything[known, new], atol=1e-8)
    assert found.noise == pytest.approx(START["noise"] * scale_of(target) ** 2)


def test_parts_of_the_embedding_have_a_length_each_and_their_kernels_are_multiplied(table):
    """A part whose length is beyond all distances says nothing, and the other one decides as if it were alone."""
    alone = starting_settings(3, 0.01)
    parts = alone | {"length of embedding 1": 1e6}
    by_depth = GaussianProcess(parts, lambda tasks: probe_directions_by_depth(tasks)[[0, 2]])
    first = GaussianProcess(alone, lambda tasks: probe_directions_by_depth(tasks)[0])
    expected = first(table, TARGET, table.configs)
    np.testing.assert_allclose(by_depth(table, TARGET, table.configs).mean, expected.mean, atol=1e-6)
    learned = GaussianProcess.learn(table, probe_directions_by_depth)
    assert [name for name in learned.settings if "embedding " in name] == [f"length of embedding {n}" for n in range(3)]


def rows(pairs):
    return [*map(tuple, pairs), *((8, c) for c in range(5))]


def written_out(a, b, tasks, configs):
    s = START
    directions, numbers = task_directions(tasks), task_numbers(tasks)
    _, settings = config_numbers(configs)

    def gaussian(values, i, j, length):
        return np.exp(-np.square(values[i] - values[j]).sum() / (2 * length**2))

    (t, c), (u, d) = a, b
    lengths = np.array([s[f"length of fact {number}"] for number in range(3)])
    by_facts = gaussian(numbers / lengths, t, u, 1)
    by_embedding = gaussian(directions, t, u, s["length of embedding 0"])
    share = s["share of method"] / (1 + s["share of method"])
    alike = share + (1 - share) * gaussian(settings, c, d, s["length of settings"])
    config = alike * (configs[c].method == configs[d].method)
    level = s["level by facts"] * by_facts + s["level by embedding"] * by_embedding
    choice = s["average"] + s["choice by facts"] * by_facts + s["choice by embedding"] * by_embedding
    if t == u:
        level, choice = level + s["level of each task"], choice + s["choice of each task"]
    return scale_of(tasks[t]) * scale_of(tasks[u]) * (level + choice * config)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": 3.0},
        {"learning_rate": 0.03},
        {"epochs": 5},
        {"blocks": (0, 1)},
        {"blocks": (3, 4)},
        {"rank": 64},
        {"placement": "mass"},
    ],
)
def test_configurations_that_differ_in_a_setting_differ_as_numbers(change):
    _, numbers = config_numbers([AdapterConfig("lora"), AdapterConfig("lora", **change)])
    assert np.abs(numbers[0] - numbers[1]).max() > 0.5


def test_learning_makes_the_trials_likelier(table, process):
    """By scipy's density of the same Gaussian."""
    learned = GaussianProcess.learn(table)
    pairs = np.argwhere(np.isfinite(table.scores))

    def log_likelihood(settings):
        names = {name: torch.tensor(value, dtype=torch.float64) for name, value in settings.items()}
        likeness = _Likeness.of(table.tasks, table.configs, task_directions, task_numbers)
        kernel = likeness.kernel(torch.from_numpy(pairs), torch.from_numpy(pairs), names).numpy()
        covariance = kernel + noise_of(table, settings["noise"], settings["power of what is left"])
        return multivariate_normal(np.zeros(len(pairs)), covariance).logpdf(table.gains()[tuple(pairs.T)])

    assert log_likelihood(learned.settings) > log_likelihood(starting_settings(3, np.nanmean(table.gains() ** 2)))


def test_settings_depend_less_on_the_draws_the_more_of_them_are_averaged(monkeypatch):
    """Means of independent draws spread by the square root of their number less; these share some of their scores."""
    table = table_of(np.random.default_rng(1).uniform(0.5, 0.95, (24, 5)))

    def spread(draws):
        monkeypatch.setattr(gaussian_process, "ROWS", 30)
        monkeypatch.setattr(gaussian_process, "DRAWS", draws)
        learned = [GaussianProcess.learn(table, seed=seed).settings.values() for seed in range(4)]
        return np.log(np.array([list(values) for values in learned])).std(axis=0).mean()

    assert spread(8) < 0.6 * spread(1)


def test_the_widening_is_that_of_predicting_each_source_from_the_others(process):
    """Against conditioning anew without each source."""
    scores = np.random.default_rng(1).uniform(0.5, 0.95, (20, 5))
    table = table_of(scores)
    off = []
    for source in sorted({task.source for task in table.tasks}):
        own = [t for t, task in enumerate(table.tasks) if task.source == source]
        wanted = [(table.tasks[t], table.configs) for t in own]
        with_all = dataclasses.replace(process, directions=lambda tasks: by_name(tasks, table))
        for t, found in zip(own, with_all.predict(table.without([source]), wanted), strict=True):
            choice = found.choice()
            off.append(abs(scores[t, choice] - found.mean[choice]) / found.std[choice])
    expected = np.quantile(off, 0.8) / norm.ppf(0.9)
    calibrated = dataclasses.replace(process, directions=lambda tasks: by_name(tasks, table)).calibrated(table)
    assert calibrated.widening == pytest.approx(expected, rel=1e-6)


def by_name(tasks, table):
    """The same directions of a task whatever other tasks there are."""
    rows = task_directions(table.tasks)
    names = [task.name for task in table.tasks]
    return rows[[names.index(task.name) for task in tasks]]


def test_settings_are_shipped_for_the_tables_of_the_library(table):
    library = load_library()
    for backbone in library.backbones():
        own = [
            (t, library.embeddings(name=t.name)[0]) for t in library.tasks(TaskFilter(trials_on=backbone.architecture))
        ]
        found = trials_table(own, lambda trial, backbone=backbone: trial.backbone.is_same(backbone))
        assert kind_of(found.without_facts()) in shipped()
        assert not found.looked_at().tasks or kind_of(found.looked_at()) in shipped()
    assert kind_of(table) not in shipped()


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
    table = TrialTable(
        tuple(tasks[:-2]),
        CONFIGS,
        np.array(scores[:-2]),
        np.ones((len(tasks) - 2, 5), int),
        np.arange(5),
        np.ones((5, 2)),
    )
    process = GaussianProcess.learn(table).calibrated(table)
    for target, best in ((tasks[-2], (3, 4)), (tasks[-1], (1, 2))):
        assert process(table, target, CONFIGS).choice() in best
        assert best_fixed(table, target, CONFIGS).choice() == best_fixed(table, tasks[-2], CONFIGS).choice()
    assert 0.3 < process.widening < 4


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
