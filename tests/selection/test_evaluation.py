"""The evaluation: nothing of the target's source is asked, and the numbers are what they say."""

import dataclasses
import json

import numpy as np
import pytest

from adapters import AdapterConfig
from selection import SelectionError, TaskStore
from selection.evaluation import covered, leave_one_source_out, mean_of, of, outcome_of_another_seed, targets_of
from selection.evaluation.experts import expert_outcomes
from selection.evaluation.page import between_configurations, evaluate_store, within_runs, write_page
from selection.evaluation.protocol import Outcome, oracle, outcomes
from selection.evaluation.rows import noise
from selection.evaluation.warm import warm_starts
from selection.recommenders import Prediction, TaskFacts
from tests.selection.test_cli import run
from tests.selection.test_store import embedding, trial

CONFIGS = [AdapterConfig("lora", rank=rank) for rank in range(1, 17)]


def filled(tasks=6, seeds=(0, 1)):
    """A store of two tasks from each source, tuned with sixteen configurations."""
    generator = np.random.default_rng(0)
    store = TaskStore()
    for i in range(tasks):
        trials = [
            dataclasses.replace(trial(float(generator.uniform(0.4, 0.9)), seed=seed), config=config, validation=0.5)
            for config in CONFIGS
            for seed in seeds
        ]
        store.add(embedding(f"task {i}", seed=i), trials=trials, source=f"source {i // 2}")
    return store


def pairs(store):
    return [(store.task(e.task), e) for e in store.embeddings()]


def test_the_targets_source_is_never_asked():
    table, targets = targets_of(pairs(filled()), "vit")
    asked = []

    def learn(evidence):
        asked.append({task.source for task in evidence.tasks})

        def predict(wanted):
            assert not {target.source for target, _ in wanted} & asked[-1]
            return [Prediction(np.zeros(len(candidates))) for _, candidates in wanted]

        return predict

    found = list(leave_one_source_out(table, targets, {"spy": learn}))
    assert len(found) == 6 * 4
    assert asked == [{"source 1", "source 2"}, {"source 0", "source 2"}, {"source 0", "source 1"}]


def test_tasks_with_too_few_trials_are_evidence_but_no_targets():
    store = filled()
    store.add(embedding("small", seed=50), trials=[dataclasses.replace(trial(), config=CONFIGS[0])])
    table, targets = targets_of(pairs(store), "vit")
    assert "small" in [task.name for task in table.tasks]
    assert "small" not in [target.facts.name for target in targets]


def target_of(scores, validation=None, by_seed=()):
    _, targets = targets_of(pairs(filled(2)), "vit")
    scores = np.array(scores)
    return dataclasses.replace(
        targets[0],
        columns=np.arange(len(scores)),
        scores=scores,
        validation=np.array(validation if validation is not None else scores),
        seconds=np.arange(1.0, len(scores) + 1),
        by_seed=np.array(by_seed).reshape(-1, len(scores)),
    )


def test_regret_is_nought_for_the_best_and_one_for_the_average_configuration():
    target = target_of([0.9, 0.7, 0.5])
    regrets = [next(outcomes("", Prediction(np.eye(3)[i]), target, [0])).regret for i in range(3)]
    assert regrets == pytest.approx([0, 1, 2])
    first = next(outcomes("", Prediction(np.array([0.1, 0.3, 0.2])), target, [0]))
    assert first.lost == pytest.approx(0.2)
    assert first.correlation == pytest.approx(-0.5)
    assert np.isnan(covered(first))
    assert next(outcomes("", oracle(target), target, [0])).correlation == pytest.approx(1)


def test_tries_show_validation_scores_and_are_judged_by_test_scores():
    target = target_of([0.9, 0.8, 0.5], validation=[0.4, 0.6, 0.5])
    found = list(outcomes("", Prediction(np.array([0.3, 0.2, 0.1])), target, [0, 1, 2, 3]))
    assert [o.lost for o in found] == pytest.approx([0, 0, 0.1, 0.1])
    assert [o.share for o in found] == pytest.approx([0, 1 / 6, 3 / 6, 1])


def test_coverage_counts_scores_inside_the_interval():
    target = target_of([0.9, 0.5])
    prediction = Prediction(np.array([0.8, 0.1]), np.diag([0.0064, 0.01]), 0.0036)  # standard deviation 0.1
    (found,) = outcomes("", prediction, target, [0])
    assert found.deviation == pytest.approx(1)
    assert covered(found) == 1
    assert covered(found, 0.6) == 0
    assert found.width == pytest.approx(2 * 1.2816 * 0.1, abs=1e-4)


def test_another_seed_shows_what_repeating_leaves_of_a_choice():
    found = outcome_of_another_seed(target_of([0.8, 0.7], by_seed=[[0.9, 0.6], [0.7, 0.8]]))
    assert found.lost == pytest.approx((0.1 + 0.3) / 2)
    assert outcome_of_another_seed(target_of([0.8, 0.7], by_seed=[[0.9, 0.6]])) is None


def test_noise_and_true_spread_are_told_apart_by_two_seeds():
    generator = np.random.default_rng(0)
    true = 0.04 * generator.standard_normal(20_000)
    runs = np.stack(
        [true + 0.02 * generator.standard_normal(20_000), 0.1 + true + 0.02 * generator.standard_normal(20_000)]
    )
    assert within_runs(runs) == pytest.approx(0.02**2, rel=0.05)
    assert between_configurations(runs) == pytest.approx(0.04**2, rel=0.05)


def test_the_bootstrap_draws_sources():
    def outcome(source, regret):
        return Outcome("row", "t", source, 0, regret, 0.0, 0.0, np.nan, np.nan, 0.0)

    same = [outcome("one", value) for value in (0.0, 1.0, 0.0, 1.0)]
    assert mean_of(same, lambda o: o.regret).low == mean_of(same, lambda o: o.regret).high == 0.5
    spread = [outcome(str(i), float(i % 2)) for i in range(20)]
    found = mean_of(spread, lambda o: o.regret)
    assert found.value == 0.5
    assert 0.2 < found.low < 0.4 < 0.6 < found.high < 0.8  # the standard error is 0.11
    assert of(spread, "other", 0) == []
    assert np.isnan(mean_of([], lambda o: o.regret).value)


def test_noise_knows_a_task_and_nothing_else():
    tasks = [TaskFacts(name, embedding(name, seed=1)) for name in ("a", "b", "a")]
    drawn = noise(tasks)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert abs(drawn[0] @ drawn[1]) < 0.5
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)


def test_the_nearest_expert_is_chosen_by_distance_and_the_best_by_the_oracle():
    experts = {name: embedding(name, seed=i) for i, name in enumerate("abcdef")}
    targets = {name: embedding(name, seed=i) for i, name in enumerate("bacdef")}  # the target a looks like the expert b
    sources = {name: name for name in experts}
    scores = {"logme": 0.0, "leep": 0.0, "h_score": 0.0, "nce": 0.0}
    rows = [
        {"target": t, "expert": e, "accuracy": 0.9 if (t, e) == ("a", "b") else 0.5 - 0.01 * ord(e) % 0.1} | scores
        for t in targets
        for e in experts
        if t != e
    ]
    found = {o.row: o for o in expert_outcomes(rows, targets, experts, sources) if o.target == "a"}
    assert found["log_cosine"].regret == found["cosine"].regret == found["best expert"].regret == 0
    assert found["random expert"].regret == 1


def test_warm_starts_are_averaged_over_seeds_and_gains_predicted_from_other_sources():
    rows = [
        {"target": name, "seed": seed, "distance": distance, "cold": 0.5, "warm": 0.5 + gain}
        for name, distance, gain in (("a", 0.1, 0.1), ("b", 0.2, 0.05), ("c", 0.8, -0.05), ("d", 0.9, -0.1))
        for seed in (0, 1)
    ]
    found = warm_starts(rows, {name: name for name in "abcd"})
    assert (found.targets, found.better, found.worse) == (4, 0.5, 0.5)
    assert (found.predicted, found.better_where_predicted) == (2, 1.0)
    assert found.gain == pytest.approx(0)


def test_a_whole_evaluation_makes_a_page_with_figures(tmp_path):
    found = evaluate_store(filled(8), "vit", progress=False)
    write_page(found, tmp_path)
    page = (tmp_path / "evaluation.md").read_text()
    for row in ("gaussian_process", "best_fixed", "... with noise", "oracle", "best by another seed"):
        assert f"| {row} |" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "evaluation-regret.png",
        "evaluation-calibration.png",
        "evaluation-map.png",
    }
    assert found.summary()["oracle"]["0"]["regret"] == 0
    json.dumps(found.summary())


def test_a_store_with_too_few_sources_is_named(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding("only"), trials=[trial()])
    with pytest.raises(SelectionError, match="from 0 source"):
        evaluate_store(store, "vit", progress=False)
    assert "leaving one out needs 3" in run("evaluate", "--store", tmp_path / "tasks.db", ok=False).stderr


def test_a_store_that_two_probes_embedded_is_evaluated_by_the_one_that_embedded_more(tmp_path):
    store = filled()
    alone = evaluate_store(store, "vit", progress=False)
    for i in range(3):
        store.add(embedding(f"task {i}", seed=50 + i, probe="b" * 32, dimension=7))
    both = evaluate_store(store, "vit", progress=False)
    assert [o.regret for o in both.outcomes] == [o.regret for o in alone.outcomes]
