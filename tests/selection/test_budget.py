"""Tries within a budget: what is chosen next, what is given up, and what is kept."""

import dataclasses

import numpy as np
import pytest
import timm

import adapters
import task2vec
from adapters import AdapterConfig, BackboneId, StopTraining
from selection import RecommendationError, SelectionError, TaskStore, auto_tune, load_result, recommend
from selection.jobs.failures import LOGS
from selection.recommendation.learning_curves import LearningCurves, curves_of
from selection.recommendation.observed import observations
from selection.recommendation.prediction import Prediction, believed
from selection.tuning import workplace
from selection.tuning.budget import Clock, Watch
from selection.tuning.tries import packed_attempt
from task2vec import Compute, Task
from tests.selection.test_store import trial

NAME = adapters.DEFAULT_BACKBONE
HERE = Compute("cpu", workers=0)
CONFIGS = [AdapterConfig("bitfit", epochs=3), AdapterConfig("norm", epochs=3), AdapterConfig("linear", epochs=4)]
RISING = LearningCurves.fit([[0.1 * slope * (e + 1) / 10 for e in range(10)] for slope in range(1, 11)])


@pytest.fixture(scope="module")
def task():
    """Two classes of noise, one brighter than the other."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(0, 160, (40, 32, 32, 3)) + 80 * labels[:, None, None, None]
    return Task.from_arrays(images.astype(np.uint8), labels, name="spots")


@pytest.fixture(scope="module")
def store(task):
    """Three tasks like it on which the later configurations did worse, with curves."""
    backbone = BackboneId.of_model(timm.create_model(NAME, pretrained=True))
    probe = task2vec.load_probe()
    found = TaskStore()
    for seed in range(3):
        part = task.select(np.random.default_rng(seed).choice(40, 30, replace=False))
        trials = [
            dataclasses.replace(
                trial(0.9 - 0.1 * c + 0.01 * seed, backbone=backbone),
                config=config,
                seconds=1.0,
                curve=tuple((0.1 * (c + 1) * (e + 1) / config.epochs, 0.1) for e in range(config.epochs)),
            )
            for c, config in enumerate(CONFIGS)
        ]
        found.add(task2vec.embed(part, probe), name=f"task {seed}", trials=trials)
    return found


def test_time_is_spent_until_everything_was_tried(task, store, tmp_path):
    result = auto_tune(task, NAME, store, seconds=600, out=tmp_path, progress=False)
    assert {t.config for t in result.trials} == set(CONFIGS)
    whole = [t for t in result.trials if len(t.curve) == t.config.epochs]
    kept = adapters.adapter_of(result.model).config
    assert kept in [t.config for t in whole]
    assert (tmp_path / "adapter.safetensors").exists()
    assert (tmp_path / "try-1" / "adapter.safetensors").exists()


def test_the_first_try_is_finished_however_little_time_there_is(task, store):
    result = auto_tune(task, NAME, store, seconds=1e-6, progress=False)
    assert [t.config for t in result.trials] == [CONFIGS[0]]
    assert len(result.trials[0].curve) == 3


def test_test_images_give_a_score_and_validation_images_of_ones_own_are_taken(task, store):
    train, rest = task.split(0.5, seed=1)
    validation, test = rest.split(0.5, seed=2)
    result = auto_tune(task2vec.Splits(train, validation, test), NAME, store, progress=False)
    assert result.test is not None
    assert result.trials[0].score == result.test.accuracy
    assert result.trials[0].num_images == len(train)
    assert auto_tune(train, NAME, store, progress=False).trials[0].score is None


def test_what_cannot_be_meant_is_refused(task, store):
    for wrong, message in (
        ({"tries": 0}, "tries=0 is no number of tries"),
        ({"seconds": 0}, "seconds=0 leaves no time"),
        ({"tries": 2, "within": 0.01}, "within=0.01 names one configuration"),
    ):
        with pytest.raises(SelectionError, match=message):
            auto_tune(task, NAME, store, progress=False, **wrong)


def test_a_clock_counts_in_the_seconds_of_the_machine_that_made_the_trials():
    now = [100.0]
    clock = Clock(60, now=lambda: now[0])
    assert clock.limit(None) == 60
    assert clock.limit(20) == 20
    now[0] = 130.0
    clock.learn(expected=5.0, taken=15.0)  # three times as slow
    assert clock.limit(None) == pytest.approx(10)
    now[0] = 200.0
    assert clock.left < 0
    assert clock.limit(None) == 0
    assert Clock(None).limit(None) is None


def epochs_until_given_up(watch, accuracies, seconds=1.0):
    for number, accuracy in enumerate(accuracies, 1):
        try:
            watch(None, {"epoch": number, "accuracy": accuracy, "seconds": seconds})
        except StopTraining:
            return number
    return None


TEN = AdapterConfig("ssf", epochs=10)


@pytest.mark.parametrize(
    ("best", "left", "last", "expected"),
    [
        (0.9, 1e9, 0.2, 2),  # it will end at 0.2
        (0.1, 1e9, 0.2, None),  # better than what there is
        (None, 1e9, 0.0, None),  # nothing to compare with
        (0.1, 5.0, 0.9, 1),  # nine more seconds do not fit
    ],
    ids=["hopeless", "promising", "the first", "too late"],
)
def test_a_training_is_given_up_where_it_promises_nothing_or_does_not_fit(best, left, last, expected):
    clock = Clock(left, now=lambda: 0.0)
    watch = Watch(RISING, TEN, best, clock)
    assert epochs_until_given_up(watch, [last * (e + 1) / 10 for e in range(10)]) == expected
    assert watch.gave_up == (expected is not None)
    assert watch.whole_seconds == pytest.approx(10)


def test_a_training_that_was_resumed_is_judged_by_all_its_epochs():
    watch = Watch(RISING, TEN, 0.4, Clock(3.0, now=lambda: 0.0))
    for epoch in (8, 9, 10):  # two more seconds fit, and 0.8 of the way to 0.5 is on time
        watch(None, {"epoch": epoch, "accuracy": 0.05 * epoch, "seconds": 1.0})
    assert not watch.gave_up
    late = Watch(RISING, TEN, 0.4, Clock(1.5, now=lambda: 0.0))
    with pytest.raises(StopTraining):
        late(None, {"epoch": 8, "accuracy": 0.4, "seconds": 1.0})


def test_of_a_training_that_was_given_up_its_expected_end_counts_and_how_unsure_that_is():
    whole = dataclasses.replace(
        trial(None), config=TEN, validation=0.5, curve=tuple((0.05 * (e + 1), 1.0) for e in range(10))
    )
    part = dataclasses.replace(whole, validation=0.15, curve=whole.curve[:3])
    ((number, accuracy, variance),) = observations([part], [TEN], RISING)
    assert (number, accuracy) == (0, pytest.approx(0.5, abs=0.05))
    ((_, seen, own),) = observations([whole], [TEN], RISING)
    assert seen == 0.5
    assert variance > own


def test_curves_are_those_of_the_backbone(store):
    assert curves_of(store, BackboneId("another")) is None
    own = curves_of(store, BackboneId(NAME))
    assert own.end([0.1], 1 / 3)[0] == pytest.approx(0.3, abs=0.1)


@pytest.mark.slow
def test_tries_at_the_same_time_are_other_configurations_and_each_is_what_it_would_be_here(
    cluster, task, store, tmp_path
):
    alone = auto_tune(task, NAME, store, tries=3, compute=HERE, progress=False)
    found = auto_tune(task, NAME, store, tries=3, compute=HERE, cluster=cluster, out=tmp_path, progress=False)
    assert {t.config for t in found.trials} == {t.config for t in alone.trials} == set(CONFIGS)
    whole = {t.config: t.validation for t in alone.trials if len(t.curve) == t.config.epochs}
    assert whole.items() <= {t.config: t.validation for t in found.trials}.items()
    assert found.failed == ()
    assert load_result(tmp_path).description.config == adapters.adapter_of(found.model).config.to_dict()
    assert sorted(path.name for path in tmp_path.glob("try-*")) == ["try-1", "try-2", "try-3"]


@pytest.mark.slow
def test_a_try_that_fails_leaves_a_log_and_the_best_of_the_others_is_kept(cluster, task, store, tmp_path, monkeypatch):
    monkeypatch.setattr(workplace, "packed_attempt", fail_on_first)
    found = auto_tune(task, NAME, store, tries=3, compute=HERE, cluster=cluster, out=tmp_path, progress=False)
    assert found.out == tmp_path
    assert [name.split(", ")[-1] for name in found.failed] == ["try 1"]
    assert {t.config for t in found.trials} == set(CONFIGS[1:])
    assert "no memory" in next((tmp_path / LOGS).iterdir()).read_text()


def test_what_runs_is_believed_to_score_what_is_expected_and_the_next_try_looks_elsewhere():
    alike = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 0.8]])
    prediction = Prediction(np.array([0.5, 0.5, 0.45]), 0.01 * alike, 1e-4)
    seen = [(0, 0.5, 0.001)]
    running = believed(prediction.given(seen), [1])
    assert prediction.given([*seen, *running]).mean == pytest.approx(prediction.given(seen).mean)
    assert prediction.next_try([(1, 0.5, 0.0)]) == 2  # the twin of what was tried promises less than the unknown one
    assert prediction.next_try([*seen, *running]) == 2
    with pytest.raises(ValueError, match="every candidate was tried"):
        prediction.next_try([*seen, *believed(prediction, [1, 2])])


def test_where_the_first_try_fails_another_is_finished_however_little_time_there_is(
    cluster, task, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(workplace, "packed_attempt", fail_on_first)
    settings = {"compute": HERE, "cluster": cluster, "out": tmp_path / "tuned", "progress": False}
    found = auto_tune(task, NAME, store, seconds=1e-3, **settings)
    assert len(found.failed) == 1
    assert len(found.fit.curve) == adapters.adapter_of(found.model).config.epochs
    with pytest.raises(SelectionError, match="has tries of an earlier run; give another folder"):
        auto_tune(task, NAME, store, tries=2, **settings)
    monkeypatch.setattr(workplace, "packed_attempt", always_fail)
    with pytest.raises(SelectionError, match=r"3 failed: spots, .*no try was finished"):
        auto_tune(task, NAME, store, tries=9, **settings | {"out": tmp_path / "none"})


def test_a_configuration_that_failed_is_no_rival_of_the_next_try(task, store):
    target = task2vec.embed(task, task2vec.load_probe())
    first = recommend(target, store, NAME)
    after = recommend(target, store, NAME, failed=[first.config], running=[first.ranking[1].config])
    assert {candidate.config for candidate in after.ranking} == set(CONFIGS) - {first.config}
    assert after.config == first.ranking[2].config
    with pytest.raises(RecommendationError, match="all configurations that are allowed failed"):
        recommend(target, store, NAME, failed=CONFIGS)
    with pytest.raises(RecommendationError, match="give one"):
        recommend(target, store, NAME, running=CONFIGS[:1], within=0.01)


def always_fail(*arguments):
    raise MemoryError("no memory")


def fail_on_first(training, model, splits, curves, one, warm_start):
    if one.number == 1:
        raise MemoryError("no memory")
    return packed_attempt(training, model, splits, curves, one, warm_start)
