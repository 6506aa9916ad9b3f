"""The evaluation: nothing of the target's source is asked, and the numbers are what they say."""

import dataclasses
import json

import numpy as np
import pytest

from adapters import AdapterConfig
from selection import SelectionError, TaskStore
from selection.evaluation import evaluate_store
from selection.evaluation.best import choose, differences, explained, gains
from selection.evaluation.budget import Replay, at_random, by_model, in_order, successive_halving
from selection.evaluation.cheapest import WITHIN, CheapChoice, cheapest_in_truth, choose_cheapest
from selection.evaluation.evaluate import chosen_by_other_sources
from selection.evaluation.optuna_search import tpe_with_hyperband
from selection.evaluation.page import _budget_table, write_page
from selection.evaluation.protocol import leave_one_source_out, targets_of
from selection.evaluation.repeats import between_configurations, judged_by_both, judged_by_the_other, within_runs
from selection.evaluation.rows import noise, shuffled
from selection.evaluation.summary import mean_over_sources
from selection.evidence.table import TaskFacts
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.features import task_directions
from tests.selection.test_cli import run
from tests.selection.test_store import embedding, trial

CONFIGS = [AdapterConfig("lora", rank=rank) for rank in range(1, 9)]
EPOCHS, EPOCH_SECONDS = 9, 1.0


def filled(tasks=6, seeds=(0, 1), curve=()):
    """A store of two tasks from each source, tuned with eight configurations, each with this learning curve."""
    generator = np.random.default_rng(0)
    store = TaskStore()
    for i in range(tasks):
        trials = [
            dataclasses.replace(
                trial(float(generator.uniform(0.4, 0.9)), seed=seed), config=config, validation=0.5, curve=curve
            )
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
            return [Prediction(np.full(len(candidates), float(target.name[-1]))) for target, candidates in wanted]

        return predict

    found = leave_one_source_out(table, targets, {"spy": learn})
    assert [prediction.mean[0] for prediction in found["spy"]] == [0, 1, 2, 3, 4, 5]  # in the targets' order
    assert asked == [{"source 1", "source 2"}, {"source 0", "source 2"}, {"source 0", "source 1"}]


def test_tasks_with_too_few_trials_are_evidence_but_no_targets():
    store = filled()
    store.add(embedding("small", seed=50), trials=[dataclasses.replace(trial(), config=CONFIGS[0])])
    table, targets = targets_of(pairs(store), "vit")
    assert "small" in [task.name for task in table.tasks]
    assert "small" not in [target.facts.name for target in targets]


def target_of(scores, validation=None, twice=(), repeated=(), seconds=None):
    """A target whose trials took nine epochs and climbed in a straight line to their validation accuracy."""
    _, targets = targets_of(pairs(filled(2)), "vit")
    validation = scores if validation is None else validation
    seconds = [EPOCHS * EPOCH_SECONDS] * len(scores) if seconds is None else seconds
    trials = tuple(
        dataclasses.replace(
            trial(score),
            config=config,
            validation=v,
            seconds=float(s),
            curve=tuple((v * (epoch + 1) / EPOCHS, s / EPOCHS) for epoch in range(EPOCHS)),
        )
        for config, score, v, s in zip(CONFIGS, scores, validation, seconds, strict=False)
    )
    return dataclasses.replace(
        targets[0],
        columns=np.arange(len(scores)),
        scores=np.array(scores),
        trials=trials,
        twice=np.array(twice, np.int64),
        repeated=np.array(repeated).reshape(2, -1),
        costs=np.array(seconds, np.float64) / 100,
    )


def test_regret_is_nought_for_the_best_and_one_for_the_average_configuration():
    target = target_of([0.9, 0.7, 0.5])
    assert [choose(Prediction(np.eye(3)[i]), target).regret for i in range(3)] == pytest.approx([0, 1, 2])
    first = choose(Prediction(np.array([0.1, 0.3, 0.2])), target)
    assert first.lost == pytest.approx(0.2)
    assert np.isnan(first.inside())


def test_tries_show_validation_scores_and_are_judged_by_test_scores():
    target = target_of([0.9, 0.8, 0.5], validation=[0.4, 0.6, 0.5])
    prediction = Prediction(np.array([0.3, 0.2, 0.1]))
    lost = [choose(prediction, target, tries).lost for tries in (0, 1, 2, 3, 10)]
    assert lost == pytest.approx([0, 0, 0.1, 0.1, 0.1])


def test_a_model_is_chosen_for_a_source_by_what_it_did_on_the_others():
    right, wrong = Prediction(np.array([0.9, 0.1])), Prediction(np.array([0.1, 0.9]))
    targets = [
        dataclasses.replace(
            target_of([0.9, 0.5]), facts=dataclasses.replace(target_of([0.9, 0.5]).facts, source=source)
        )
        for source in "aab"
    ]
    models = {"good on a": [right, right, wrong], "good on b": [wrong, wrong, right]}
    found = chosen_by_other_sources(models, targets)
    assert found == [wrong, wrong, wrong]  # for a what did well on b, for b what did well on a


def test_coverage_counts_scores_inside_the_interval():
    target = target_of([0.9, 0.5])
    prediction = Prediction(np.array([0.8, 0.1]), np.diag([0.0064, 0.01]), 0.0036)  # standard deviation 0.1
    found = choose(prediction, target)
    assert found.deviation == pytest.approx(1)
    assert found.inside() == 1
    assert found.inside(0.6) == 0
    assert found.width == pytest.approx(2 * 1.2816 * 0.1, abs=1e-4)
    above = choose(dataclasses.replace(prediction, mean=np.array([1.2, 0.1])), target)  # no accuracy is above 1
    assert above.deviation == pytest.approx(-1)
    assert above.width == pytest.approx(1.2816 * 0.1, abs=1e-4)


def test_gains_are_counted_from_the_linear_probe_on_the_same_test_images():
    target = target_of([0.5, 0.7, 0.9])
    np.testing.assert_allclose(gains(target.scores, target), target.scores - target.facts.level)
    trials = (dataclasses.replace(target.trials[0], config=AdapterConfig("linear")), *target.trials[1:])
    np.testing.assert_allclose(gains(target.scores, dataclasses.replace(target, trials=trials)), [0.2, 0.4])


def test_knowing_the_gains_explains_all_of_them_and_their_mean_none():
    targets = [target_of([0.9, 0.7, 0.5]), target_of([0.4, 0.6, 0.8])]
    average = np.mean([t.scores - t.facts.level for t in targets])
    truth = [Prediction(t.scores) for t in targets]
    mean = [Prediction(np.full(3, t.facts.level + average)) for t in targets]
    assert explained(gains, truth, targets).value == pytest.approx(1)
    assert explained(gains, mean, targets).value == pytest.approx(0)


def test_differences_are_explained_whatever_is_expected_of_a_task_as_a_whole():
    targets = [target_of([0.9, 0.7, 0.5]), target_of([0.4, 0.6, 0.8])]
    lifted = [Prediction(t.scores + 0.3) for t in targets]
    alike = [Prediction(np.full(3, t.scores.mean())) for t in targets]
    half = [Prediction(0.5 * t.scores) for t in targets]
    assert explained(differences, lifted, targets).value == pytest.approx(1)
    assert explained(differences, alike, targets).value == pytest.approx(0)
    assert explained(differences, half, targets).value == pytest.approx(0.75)


def test_the_cheapest_good_enough_configuration_is_judged_by_its_score_and_its_seconds():
    target = target_of([0.9, 0.895, 0.5], seconds=[90, 30, 10])
    certain = Prediction(np.array([0.8, 0.795, 0.3]), 1e-8 * np.eye(3))
    found = choose_cheapest(certain, target, fixed=0)
    assert (found.is_within, found.cost) == (True, pytest.approx(1 / 3))
    wrong = choose_cheapest(Prediction(np.array([0.5, 0.5, 0.5]), 1e-8 * np.eye(3)), target, fixed=0)
    assert (wrong.is_within, wrong.lost) == (False, pytest.approx(0.4))
    assert cheapest_in_truth(target, fixed=0).cost == pytest.approx(1 / 3)


def test_a_loss_of_a_point_is_within_a_point_however_it_is_rounded():
    target = target_of([0.71, 0.70, 0.5])
    assert WITHIN < 0.71 - 0.70
    assert CheapChoice.of(target, 1, 0).is_within
    assert not CheapChoice.of(target_of([0.71, 0.699, 0.5]), 1, 0).is_within


def test_what_a_training_usually_takes_is_told_by_other_sources():
    store = filled()
    for name in ("task 0", "task 1"):  # of one source
        slow = [dataclasses.replace(t, seconds=500.0) for t in store.task(name).trials]
        store.remove(name)
        number = int(name[-1])
        store.add(embedding(name, seed=number), trials=slow, source="source 0")
    targets = {target.facts.name: target for target in targets_of(pairs(store), "vit")[1]}
    np.testing.assert_allclose(targets["task 0"].costs, 3.0)
    assert set(targets["task 0"].seconds) == {500.0}
    assert (targets["task 5"].costs > 3.0).all()


def test_a_replay_spends_the_stored_seconds_of_each_epoch_once():
    target = target_of([0.9, 0.7], seconds=[9.0, 18.0])
    replay = Replay(target, budget=20.0)
    assert replay.train(0, 3) == pytest.approx([0.1, 0.2, 0.3])
    assert replay.spent == pytest.approx(3)
    assert len(replay.train(0, 9)) == 9
    assert len(replay.train(0, 9)) == 9
    assert replay.spent == pytest.approx(9)
    assert replay.answer() == 0
    assert in_order([1, 0])(Replay(target, budget=20.0)) == 1  # nothing is left for the other
    assert in_order([1, 0])(Replay(target, budget=17.0)) is None
    assert in_order([1, 0])(Replay(target, budget=27.0)) == 0


SCORES = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9]


@pytest.mark.parametrize(
    "search",
    [
        at_random(0),
        successive_halving(None, 0),
        successive_halving([0, 1, 2, 3, 4, 5, 6, 7], 0),
        by_model(Prediction(np.array(SCORES), 1e-4 * np.eye(8)), None),
        tpe_with_hyperband(),
    ],
    ids=["random", "asha", "asha in order", "model", "optuna"],
)
def test_with_time_enough_every_search_finds_the_best(search):
    target = target_of(SCORES)
    assert search(Replay(target, budget=1e9)) == 7


def test_a_seed_of_optuna_tries_the_same_again():
    target = target_of(SCORES)
    replays = [Replay(target, budget=3 * EPOCHS * EPOCH_SECONDS) for _ in range(2)]
    assert len({tpe_with_hyperband(seed=3)(replay) for replay in replays}) == 1
    assert replays[0].epochs == replays[1].epochs


def test_halving_finds_the_best_of_curves_that_keep_their_order_with_less_than_whole_trainings():
    target = target_of(SCORES)
    whole = EPOCHS * EPOCH_SECONDS
    assert successive_halving(None, 0)(Replay(target, budget=5 * whole)) == 7
    assert in_order(list(range(8)))(Replay(target, budget=5 * whole)) == 4


def test_the_model_gives_trainings_up_whose_curves_promise_nothing():
    curves = LearningCurves.fit([[0.1 * slope * (e + 1) / EPOCHS for e in range(EPOCHS)] for slope in range(1, 10)])
    target = target_of([0.9, 0.3, 0.3, 0.3])
    replay = Replay(target, budget=1e9)
    by_model(Prediction(np.array([0.8, 0.7, 0.7, 0.7]), 0.04 * np.eye(4)), curves)(replay)
    assert replay.epochs[0] == EPOCHS
    assert max(replay.epochs[n] for n in (1, 2, 3)) < EPOCHS / 2


def test_lines_through_stored_curves_tell_where_a_training_ends():
    ends = np.linspace(0.2, 0.9, 12)
    curves = LearningCurves.fit([[end * min(1.0, 0.3 + 0.1 * e) for e in range(20)] for end in ends])
    for end in (0.3, 0.8):
        mean, variance = curves.end([end * min(1.0, 0.3 + 0.1 * e) for e in range(6)], 6 / 20)
        assert mean == pytest.approx(end, abs=0.01)
        assert variance < 1e-4
    assert LearningCurves.fit([[0.1, 0.2]] * 3) is None


def test_choices_among_what_was_repeated_are_judged_by_each_seed():
    repeated = [[0.9, 0.6, 0.6], [0.7, 0.8, 0.705]]
    target = target_of([0.8, 0.7, 0.6, 0.5], twice=[0, 1, 3], repeated=repeated)
    third = judged_by_both(target, np.array([0.1, 0.2, 0.9, 0.3]))  # what was not repeated is no choice
    assert third == pytest.approx(((0.3 / 0.2 + 0.095 / 0.065) / 2, 0.1975, 0), abs=1e-9)
    first = judged_by_both(target, np.array([0.9, 0.2, 0.1, 0.3]))
    assert first == pytest.approx((0.1 / 0.065 / 2, 0.05, 0.5))
    other = judged_by_the_other(target)
    assert other.lost == pytest.approx((0.3 + 0.1) / 2)
    assert other.regret == pytest.approx((0.3 / 0.2 + 0.1 / 0.065) / 2)
    assert other.within == 0
    assert np.isnan(judged_by_both(target_of([0.8, 0.7], twice=[0, 1], repeated=[[0.9, 0.6]] * 2), np.ones(2))).all()


def test_what_was_tuned_with_one_seed_only_is_no_repetition():
    store = filled(seeds=(0,))
    again = [dataclasses.replace(trial(0.1 * i), config=CONFIGS[i], seed=7, validation=0.5) for i in range(1, 4)]
    store.add_trials("task 0", again)
    _, targets = targets_of(pairs(store), "vit")
    assert [targets[0].trials[number].config for number in targets[0].twice] == CONFIGS[1:4]
    assert targets[0].repeated.shape == (2, 3)
    assert sorted(targets[0].repeated[1]) == pytest.approx([0.1, 0.2, 0.3])
    assert all(target.repeated.shape == (2, 0) for target in targets[1:])
    assert len(targets[0].trials) == len(CONFIGS)  # each once, by its first seed


def test_noise_and_true_spread_are_told_apart_by_two_seeds():
    generator = np.random.default_rng(0)
    true = 0.04 * generator.standard_normal(20_000)
    runs = np.stack(
        [true + 0.02 * generator.standard_normal(20_000), 0.1 + true + 0.02 * generator.standard_normal(20_000)]
    )
    assert within_runs(runs) == pytest.approx(0.02**2, rel=0.05)
    assert between_configurations(runs) == pytest.approx(0.04**2, rel=0.05)


def test_the_bootstrap_draws_sources():
    same = mean_over_sources(np.array([0.0, 1.0, 0.0, 1.0]), ["one"] * 4)
    assert same.low == same.high == 0.5
    found = mean_over_sources(np.arange(20.0) % 2, [str(i) for i in range(20)])
    assert found.value == 0.5
    assert 0.2 < found.low < 0.4 < 0.6 < found.high < 0.8  # the standard error is 0.11
    assert np.isnan(mean_over_sources(np.array([]), []).value)
    assert mean_over_sources(np.array([1.0, np.nan]), ["a", "b"]).value == 1
    assert mean_over_sources(np.array([1.0, 3.0]), ["a", "b"], np.array([2.0, 2.0])).value == 1


def test_noise_knows_a_task_and_nothing_else():
    tasks = [TaskFacts(name, embedding(name, seed=1)) for name in ("a", "b", "a")]
    drawn = noise(tasks)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert abs(drawn[0] @ drawn[1]) < 0.5
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_shuffled_embeddings_are_those_of_other_tasks(count):
    tasks = [TaskFacts(str(i), embedding(str(i), seed=i)) for i in range(count)]
    own, other = task_directions(tasks), shuffled(tasks)
    matches = [[np.allclose(row, vector) for vector in own].index(True) for row in other]
    assert sorted(matches) == list(range(count))
    assert all(match != i for i, match in enumerate(matches))


def test_a_whole_evaluation_makes_a_page_with_figures(tmp_path):
    found = evaluate_store(filled(8, curve=((0.4, 1.0), (0.5, 1.0))), "vit", progress=False)
    write_page(found, tmp_path, "## More\n\nwords")
    page = (tmp_path / "evaluation.md").read_text()
    for row in ("gaussian_process", "best_fixed", "... with noise", "random search", "whoever knew the scores"):
        assert f"| {row} |" in page
    assert page.endswith("words\n")
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "evaluation-regret.png",
        "evaluation-calibration.png",
        "evaluation-map.png",
    }
    json.dumps(found.summary())


def test_processes_share_the_work_and_change_nothing():
    store = filled(curve=((0.4, 1.0), (0.5, 1.0)))
    rows = ("random", "best_fixed", "gaussian_process")
    alone, shared = (evaluate_store(store, "vit", only=rows, processes=p, progress=False) for p in (1, 2))
    for row in rows:
        for ours, theirs in zip(shared.predictions[row], alone.predictions[row], strict=True):
            np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-4)
    assert shared.budgets == alone.budgets


def test_searches_are_not_compared_where_no_trial_has_a_curve():
    found = evaluate_store(filled(), "vit", only=("random", "best_fixed", "gaussian_process"), progress=False)
    assert found.budgets == {}
    assert "no search could be replayed" in _budget_table(found)


def test_a_store_with_too_few_sources_is_named(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding("only"), trials=[trial()])
    with pytest.raises(SelectionError, match=r"from 0 source\(s\), and leaving one out needs 3"):
        evaluate_store(store, "vit", progress=False)
    assert "leaving one out needs 3" in run("evaluate", "--store", tmp_path / "tasks.db", ok=False).stderr


def test_a_store_that_two_probes_embedded_is_evaluated_by_the_one_that_embedded_more():
    store = filled()
    alone = evaluate_store(store, "vit", progress=False)
    for i in range(3):
        store.add(embedding(f"task {i}", seed=50 + i, probe="b" * 32, dimension=7))
    both = evaluate_store(store, "vit", progress=False)
    assert both.choices("gaussian_process") == alone.choices("gaussian_process")
