"""Recommendations as users ask for them: limits, evidence, trials of their own, other backbones."""

import dataclasses

import numpy as np
import pytest
import sqlalchemy
import timm
from scipy.stats import linregress

import adapters
from adapters import AdapterConfig, BackboneId
from selection import (
    RECOMMENDERS,
    BackboneFacts,
    Candidate,
    Recommendation,
    RecommendationError,
    SelectionError,
    TaskStore,
    config_of,
    enqueue,
    published_gains,
    recommend,
)
from selection.evidence.library import library_warm_starts
from selection.evidence.table import table_of
from selection.recommendation import warm_start
from selection.recommendation.acquisition import CHANCE, chances_within, cheapest_within
from selection.recommendation.warm_start import expected_gain
from selection.tuning.optuna_prior import parameters_of
from tests.selection.test_store import embedding, trial

SSF, LORA, WIDE = AdapterConfig("ssf"), AdapterConfig("lora", rank=4), AdapterConfig("adaptformer", bottleneck=64)


def stored(scores, **changes):
    """A store with one task for each row of {config: score}, task i made with seed i."""
    store = TaskStore()
    for i, row in enumerate(scores):
        trials = [
            dataclasses.replace(
                trial(score, parameters=10 * (n + 1), seconds=100.0 * (n + 1), **changes), config=config
            )
            for n, (config, score) in enumerate(row.items())
        ]
        store.add(embedding(f"task {i}", seed=i), trials=trials)
    return store


@pytest.mark.parametrize("recommender", ["nearest_vote", "gaussian_process"])
def test_a_stored_copy_of_the_target_decides(recommender):
    store = stored([{SSF: 0.9, LORA: 0.7}, {SSF: 0.2, LORA: 0.9}, {SSF: 0.2, LORA: 0.9}])
    found = recommend(embedding("copy", seed=0), store, "vit", recommender="nearest_vote")
    assert found.config == SSF
    assert found.evidence[0].task == "task 0"
    assert found.evidence[0].best == SSF
    assert recommend(embedding("copy", seed=0), store, "vit", exclude=["task 0"]).config == LORA


def test_only_stored_tasks_that_agree_with_what_is_expected_are_given_as_reasons():
    """Of ten stored tasks nine lose nothing; the target's twin loses twenty points, which is not what is expected."""
    store = stored([{SSF: 0.70, LORA: 0.6}] + [{SSF: 0.90 + 0.001 * i, LORA: 0.8} for i in range(9)])
    found = recommend(embedding("copy", seed=0), store, "vit", recommender="factorisation")
    gain = found.candidate.predicted - found.level
    near = {n.name for n in store.nearest(embedding("copy", seed=0), 10)}
    for name in near:
        score = next(t.score for t in store.task(name).trials if t.config == SSF)
        agrees = abs(score - 0.9 - gain) <= max(found.candidate.std, 0.05)
        assert agrees or name not in [e.task for e in found.evidence]
    assert found.evidence
    assert "task 0" not in [e.task for e in found.evidence]
    assert "rests on the trials of 10 stored tasks; the nearest of those that agree are" in found.explain()


def test_limits_leave_configurations_out_and_say_what_would_fit():
    store = stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}])
    target = embedding("new", seed=50)
    assert recommend(target, store, "vit").config == WIDE
    assert recommend(target, store, "vit", max_params=20).config == LORA
    assert recommend(target, store, "vit", max_seconds=150).config == SSF
    assert recommend(target, store, "vit", mergeable_only=True).config == LORA
    assert recommend(target, store, "vit", methods=["ssf"]).config == SSF
    assert recommend(target, store, "vit", without_methods=["adaptformer", "lora"]).config == SSF
    with pytest.raises(RecommendationError, match="the smallest has 10 parameters and the quickest takes about 80 s"):
        recommend(target, store, "vit", max_params=5)
    with pytest.raises(RecommendationError, match="there is no method 'magic'"):
        recommend(target, store, "vit", methods=["magic"])


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"methods": ["vpt_deep"]}, r"methods=\['vpt_deep'\] leaves"),
        ({"methods": []}, r"methods=\[\] leaves"),
        ({"methods": ["adaptformer"], "mergeable_only": True}, r"methods=\['adaptformer'\] with mergeable_only leaves"),
        ({"methods": ["lora"], "without_methods": ["lora"]}, r"with without_methods=\['lora'\] leaves"),
    ],
)
def test_what_leaves_no_method_is_named(limits, told):
    with pytest.raises(RecommendationError, match=f"{told} no method with trials here; there are those of adaptformer"):
        recommend(embedding("new", seed=50), stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}]), "vit", **limits)


def test_methods_may_come_one_by_one():
    store = stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}])
    assert recommend(embedding("new", seed=50), store, "vit", methods=iter(["ssf", "lora"])).config == LORA


@pytest.mark.parametrize("limits", [{"max_params": 25}, {"max_seconds": 200}])
def test_the_cheapest_that_is_good_enough_keeps_to_the_limits_whatever_was_tried(limits):
    store = stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}] * 3)
    tried = dataclasses.replace(trial(None, validation=1.0), config=WIDE)
    found = recommend(embedding("new", seed=50), store, "vit", trials=[tried], within=0.01, **limits)
    assert found.config in (SSF, LORA)
    assert found.chance is not None


def test_nothing_is_good_enough_where_all_that_keeps_to_the_limits_failed():
    store = stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}] * 3)
    tried = dataclasses.replace(trial(None, validation=1.0), config=WIDE)
    given = {"trials": [tried], "failed": [SSF, LORA], "max_params": 25, "within": 0.01}
    with pytest.raises(RecommendationError, match=r"allowed failed|were tried"):
        recommend(embedding("new", seed=50), store, "vit", **given)


def test_trials_with_other_backbones_tell_nothing_of_this_one():
    store = stored([{SSF: 0.8, LORA: 0.7}] * 3)
    target = embedding("new", seed=50)
    other = dataclasses.replace(trial(0.1, validation=0.1), config=SSF, backbone=BackboneId("resnet18"))
    assert recommend(target, store, "vit", trials=[other]).ranking == recommend(target, store, "vit").ranking


OWN_FACTS = BackboneFacts(BackboneId("vit"), 100, 2, 0.5, (0.5,), (0.5,), 0.5, 2.0, image_size=(3, 224, 224))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": BackboneId("resnet18")}, "the facts are of resnet18, and vit will be tuned"),
        ({"num_classes": 5}, "the facts are of a task of 5 classes, and the embedding of one of 2"),
    ],
)
def test_facts_of_something_else_are_refused(change, message):
    facts = dataclasses.replace(OWN_FACTS, **change)
    with pytest.raises(RecommendationError, match=message):
        recommend(embedding("new", seed=50), stored([{SSF: 0.5}]), "vit", facts=facts)


def test_facts_that_the_stored_tasks_lack_change_neither_expectations_nor_reasons_and_the_text_says_so():
    store = stored([{SSF: 0.8, LORA: 0.7}] * 3)
    target = embedding("new", seed=50)
    without = recommend(target, store, "vit")
    for reached in (0.3, 0.91):
        found = recommend(target, store, "vit", facts=dataclasses.replace(OWN_FACTS, linear_probe=reached))
        assert (found.ranking, found.evidence, found.level) == (without.ranking, without.evidence, without.level)
        assert f"A linear probe of your images reaches {reached:.0%} on the backbone's features, but" in found.explain()
        assert "expectations start from the 90% on the probe's" in found.explain()


def test_accuracies_are_not_expected_from_a_handful_of_images():
    store = stored([{SSF: 0.8, LORA: 0.7}] * 3)
    few = dataclasses.replace(embedding("new", seed=50), num_samples=4, num_images=4)
    found = recommend(few, store, "vit")
    assert "so few images" in found.note
    assert not found.is_calibrated
    assert "%" not in found.explain().split("probe's features")[1].split(".")[1]


def test_the_same_backbone_with_other_weights_is_called_so():
    other = BackboneId("vit", "", "0" * 32)
    store = stored([{SSF: 0.8, LORA: 0.7}] * 3, backbone=dataclasses.replace(other, architecture="resnet18"))
    model = timm.create_model("resnet18")
    found = recommend(embedding("new", seed=50), store, model)
    assert "rests on resnet18.a1_in1k with other weights" in found.note


def test_tasks_without_trials_are_passed_over():
    store = stored([{}, {}, {SSF: 0.5}])
    assert [e.task for e in recommend(embedding("new", seed=0), store, "vit").evidence] == ["task 2"]


def test_results_on_the_target_change_what_comes_next():
    store = stored([{SSF: 0.8, LORA: 0.75, WIDE: 0.7}, {SSF: 0.7, LORA: 0.65, WIDE: 0.6}] * 3)
    target = embedding("new", seed=50)
    first = recommend(target, store, "vit")
    assert first.config == SSF
    failed = dataclasses.replace(trial(0.0), config=SSF, validation=0.1, num_images=4000)
    after = recommend(target, store, "vit", trials=[failed])
    assert after.config in (LORA, WIDE)
    before = next(c.predicted for c in first.ranking if c.config == SSF)
    assert next(c.predicted for c in after.ranking if c.config == SSF) < before
    all_tried = [dataclasses.replace(failed, config=config) for config in (SSF, LORA, WIDE)]
    with pytest.raises(RecommendationError, match="all 3 candidates were tried"):
        recommend(target, store, "vit", trials=all_tried)


def test_two_seeds_of_one_configuration_are_one_candidate_tried():
    store = stored([{SSF: 0.8, LORA: 0.7}, {SSF: 0.7, LORA: 0.6}])
    twice = [dataclasses.replace(trial(None, seed=seed), config=SSF, validation=0.1) for seed in (0, 1)]
    found = recommend(embedding("new", seed=50), store, "vit", trials=twice)
    assert found.config == LORA
    once = recommend(embedding("new", seed=50), store, "vit", trials=twice[:1])
    assert [c.predicted for c in found.ranking] == [c.predicted for c in once.ranking]


def test_expected_seconds_are_those_of_all_images_not_only_the_embedded_ones():
    store = stored([{SSF: 0.8, LORA: 0.7}] * 2)
    target = embedding("new", seed=50)  # a trial on 100 images takes 100 s for SSF
    large = dataclasses.replace(target, num_images=50_000)
    seconds = [recommend(t, store, "vit").candidate.seconds for t in (target, large)]
    np.testing.assert_allclose(seconds, [0.8 * 100, 0.8 * 50_000])


def test_a_score_is_the_mean_of_its_repeats_and_says_how_many_they_are():
    store = TaskStore()
    done = [(SSF, 0, 0.7), (SSF, 1, 0.8), (LORA, 0, 0.6)]
    trials = [dataclasses.replace(trial(score), config=config, seed=seed) for config, seed, score in done]
    store.add(embedding("repeated", seed=1), trials=trials)
    store.add(embedding("once", seed=2), trials=trials[2:])
    table = table_of([(store.task(e.task), e) for e in store.embeddings(embedding("x").probe)])
    tasks, (lora, ssf) = [task.name for task in table.tasks], map(table.configs.index, (LORA, SSF))
    repeated, once = map(tasks.index, ("repeated", "once"))
    assert table.scores[repeated, [lora, ssf]] == pytest.approx([0.6, 0.75])
    assert table.repeats[repeated, [lora, ssf]].tolist() == [1, 2]
    assert table.repeats[once, [lora, ssf]].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("taken", "asked", "expected"),
    [
        ({100: [22.0], 500: [62.0]}, 1000, 112.0),  # 12 s and 0.1 s an image
        ({100: [22.0, 22.0, 900.0], 500: [62.0]}, 1000, 112.0),  # the machine was busy once
        ({480: [48.0], 500: [30.0]}, 1000, 80.0),  # too alike to tell the two apart: 0.1 and 0.06 s an image
        ({100: [50.0], 500: [50.0]}, 1000, 300.0),  # no training takes equally long whatever its images
    ],
)
def test_expected_seconds_are_those_that_every_training_takes_and_those_of_its_images(taken, asked, expected):
    store = TaskStore()
    for images, seconds in taken.items():
        for i, s in enumerate(seconds):
            done = dataclasses.replace(trial(0.5, seconds=s), config=SSF, num_images=images)
            store.add(embedding(f"{i} of {images}", seed=i), trials=[done])
    tasks = [(store.task(e.task), e) for e in store.embeddings(embedding("x").probe)]
    assert table_of(tasks).seconds_on(asked) == pytest.approx([expected])


def test_weights_under_one_name_are_told_apart():
    """A tag names a checkpoint, a name without one stands for timm's own, and other weights are other evidence."""
    tagged = BackboneId.of_name("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert BackboneId.of_name("vit_tiny_patch16_224") == tagged
    store = stored([{SSF: 0.8, LORA: 0.7}] * 2, backbone=dataclasses.replace(tagged, fingerprint="a" * 32))
    target = embedding("new", seed=50)
    for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        assert recommend(target, store, name).note == ""
    assert "no stored trial used" in recommend(target, store, "vit_tiny_patch16_224.augreg_in21k").note
    untrained = timm.create_model("vit_tiny_patch16_224", depth=2)
    assert "no stored trial used" in recommend(target, store, untrained).note


def test_every_recommender_answers_and_explains_itself():
    store = stored([{SSF: 0.9, LORA: 0.7}, {SSF: 0.2, LORA: 0.9}, {SSF: 0.4}])
    for name in RECOMMENDERS:
        found = recommend(embedding("new", seed=50), store, "vit", recommender=name)
        assert {c.config for c in found.ranking} == {SSF, LORA}
        assert found.config.label in found.explain()
        assert "task " in found.explain()
        assert ("80%" in found.explain()) == found.is_calibrated
        elsewhere = recommend(embedding("new", seed=50), store, "vit_tiny_patch16_224", recommender=name)
        assert "80%" not in elsewhere.explain()  # how far off another backbone is was never measured
        if found.is_calibrated:
            low, high = found.candidate.interval
            assert 0 <= low <= found.predicted <= high <= 1
    with pytest.raises(RecommendationError, match="there is no recommender 'oracle'"):
        recommend(embedding("new", seed=50), store, "vit", recommender="oracle")


def test_no_accuracy_above_everything_is_told():
    """A linear probe that is nearly perfect leaves less room than tuning usually adds."""
    sure = Candidate(SSF, 1.3, 0.1, 10, 5.0)
    assert sure.accuracy == 1.0
    assert sure.interval == pytest.approx((1 - 1.2816 * 0.1, 1.0), abs=1e-4)
    middle = Candidate(SSF, 0.6, 0.05, 10, 5.0)
    assert middle.interval == pytest.approx((0.6 - 1.2816 * 0.05, 0.6 + 1.2816 * 0.05), abs=1e-4)
    found = Recommendation(SSF, (sure, Candidate(LORA, 1.2, 0.1, 10, 5.0)), (), "gaussian_process", 0.98, 3)
    assert "expected to add 2 points, to 100%," in found.explain()
    assert "Next best of 2 candidates is lora" in found.explain()


@pytest.mark.parametrize(
    ("averaged", "in_place", "told"),
    [
        (
            (0.3, 0.4, 0.5),
            (0.4, 0.5, 0.5, 0.52),
            "No other features of the backbone tell your classes apart much",
        ),
        ((0.3, 0.7, 0.5), (0.4, 0.5, 0.5, 0.6), "features after its middle third tell 70% of your images apart"),
        ((0.3, 0.4, 0.9), (0.4, 0.5, 0.5, 0.5), "No other features"),  # those after the last third are the final ones
        ((0.1, 0.1, 0.1), (0.8, 0.6, 0.4, 0.7), "after its first third, part by part of the image, tell 80%"),
        ((0.1, 0.1, 0.1), (0.5, 0.6, 0.4, 0.7), "at all depths together, part by part of the image, tell 70%"),
    ],
)
def test_the_explanation_says_which_features_tell_the_classes_apart(averaged, in_place, told):
    facts = BackboneFacts(BackboneId("vit"), 100, 5, 0.5, averaged, in_place, 0.5, 2.0)
    found = Recommendation(SSF, (Candidate(SSF, 0.8, 0.1, 10, 5.0),), (), "gaussian_process", 0.5, 3, facts=facts)
    assert told in found.explain()


def test_trials_on_another_backbone_serve_where_there_are_no_others_and_the_note_says_so():
    store = stored([{SSF: 0.5, WIDE: 0.9}, {SSF: 0.6, WIDE: 0.8}])
    on_vit = recommend(embedding("new", seed=50), store, "vit_tiny_patch16_224")
    assert "no stored trial used vit_tiny_patch16_224" in on_vit.note
    assert on_vit.config == WIDE
    assert on_vit.ranking[0].parameters == 12 * (192 * 64 * 2 + 64 + 192)
    on_resnet = recommend(embedding("new", seed=50), store, "resnet18")
    assert [c.config for c in on_resnet.ranking] == [SSF]  # the other does not fit


def test_on_vit_b_the_methods_are_ordered_as_published():
    store = stored([{SSF: 0.5, LORA: 0.52, AdapterConfig("linear"): 0.9}] * 2)
    found = recommend(embedding("new", seed=50), store, "vit_base_patch16_224")
    gains = published_gains("vit_base_patch16_224")
    assert [c.config.method for c in found.ranking] == sorted(("ssf", "lora", "linear"), key=lambda m: -gains[m])
    assert "VTAB-1k" in found.note
    assert published_gains("resnet18") == {}


def test_a_store_without_trials_and_an_unknown_backbone_are_named():
    with pytest.raises(RecommendationError, match="has no trials that fit vit"):
        recommend(embedding("new", seed=50), stored([{}]), "vit_tiny_patch16_224")
    with pytest.raises(RecommendationError, match="timm knows no model 'nonsense'"):
        recommend(embedding("new", seed=50), stored([{SSF: 0.5}]), "nonsense")


def test_a_warm_start_is_the_adapter_of_the_task_from_which_the_target_is_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(warm_start, "expected_gain", lambda distance: 0.01)
    store = TaskStore(tmp_path / "tasks.db")
    short, long = AdapterConfig("bitfit", epochs=1, batch_size=16), AdapterConfig("bitfit", epochs=9, augment="light")
    name = "task2vec_vit_patch4_32"
    for i, config in enumerate([short, short, SSF]):
        model = adapters.attach(timm.create_model(name), config, 2 + i)
        adapters.save(model, tmp_path / str(i))
        runs = [dataclasses.replace(trial(0.9, backbone=BackboneId.of_model(model)), config=long)]
        store.add(embedding(f"task {i}", seed=i), trials=runs, adapter=tmp_path / str(i))
    target = embedding("new", seed=1)
    found = recommend(target, store, name)
    assert found.config == long  # the stored adapter differs in its training only
    nearest = store.nearest(target, 3, distance="asymmetric")
    expected = next(n.name for n in nearest if n.name != "task 2")
    assert found.warm_start == store.task(expected).adapter
    assert np.isfinite(found.predicted)
    (found.warm_start / "adapter.json").unlink()  # a lost adapter is no start, and costs nobody the recommendation
    other = next(n.name for n in nearest if n.name not in (expected, "task 2"))
    assert recommend(target, store, name).warm_start == store.task(other).adapter
    monkeypatch.setattr(warm_start, "expected_gain", lambda distance: -0.01)
    assert recommend(target, store, name).warm_start is None


def test_the_gain_of_a_warm_start_is_the_line_through_the_shipped_trials_less_its_standard_error():
    rows = [row for row in library_warm_starts() if row["rate"] == 0.01]
    line = linregress([row["distance"] for row in rows], [row["warm"] - row["cold"] for row in rows])
    assert expected_gain(0.0) == pytest.approx(line.intercept - line.intercept_stderr)
    assert expected_gain(0.3) < line.intercept + 0.3 * line.slope


def test_several_labels_an_image_are_ranked_by_tasks_of_one_label_and_get_no_accuracies():
    store = stored([{SSF: 0.80, LORA: 0.795, WIDE: 0.81}] * 4)
    target = dataclasses.replace(embedding("new", seed=50), multi_label=True)
    found = recommend(target, store, "vit")
    assert not found.is_calibrated
    assert "trust the order" in found.note
    assert "of their labels right" in found.explain()
    assert found.config == recommend(embedding("new", seed=50), store, "vit").config
    cheap = recommend(target, store, "vit", within=0.5)
    assert cheap.chance is None
    assert "likely" not in cheap.explain()


def test_where_all_candidates_are_expected_to_be_always_right_the_cheapest_is_within_a_point():
    mean, cost = np.array([1.4, 1.2, 1.1, 0.5]), np.array([3.0, 2.0, 1.0, 0.1])
    covariance = 0.01**2 * np.eye(4)
    np.testing.assert_array_equal(chances_within(mean, covariance, 0.01), [1, 1, 1, 0])
    assert cheapest_within(mean, covariance, cost, 0.01) == 2


def test_the_chance_of_being_good_enough_is_told_and_that_none_is_likely_enough():
    store = stored([{SSF: 0.60, LORA: 0.60, WIDE: 0.60}, {SSF: 0.50, LORA: 0.50, WIDE: 0.50}] * 4)
    target = embedding("new", seed=50)
    for within, phrase in ((0.5, "cheapest that is as likely as not within 50 points"), (0.0, "No candidate is as")):
        found = recommend(target, store, "vit", within=within)
        assert phrase in found.explain()
        assert f"{found.chance:.0%}" in found.explain()
    assert found.chance < CHANCE
    assert recommend(target, store, "vit").chance is None


def test_the_cheapest_that_is_good_enough_is_recommended_where_that_is_asked_for():
    store = stored([{SSF: 0.80, LORA: 0.795, WIDE: 0.81}, {SSF: 0.60, LORA: 0.595, WIDE: 0.61}] * 4)
    target = embedding("new", seed=50)  # SSF takes 10 parameters and 100 s, LoRA twice, AdaptFormer thrice as much
    best = recommend(target, store, "vit")
    assert best.config == WIDE
    expected = {c.config: c.predicted for c in best.ranking}
    for within in (0.0, (expected[WIDE] - expected[SSF]) * 5, 1.0):
        found = recommend(target, store, "vit", within=within)
        allowed = [c for c in found.ranking if c.predicted >= expected[WIDE] - within]
        assert found.config == min(allowed, key=lambda c: c.seconds).config
        assert f"within {100 * within:g} points of the best" in found.explain()
    assert recommend(target, store, "vit", within=0.0).config == WIDE
    assert recommend(target, store, "vit", within=1.0, cost="parameters").config == SSF
    for within in (-0.1, 5, float("nan")):
        with pytest.raises(RecommendationError, match="is no share of accuracy in"):
            recommend(target, store, "vit", within=within)
    with pytest.raises(RecommendationError, match="there is no cost 'money'"):
        recommend(target, store, "vit", within=0.01, cost="money")
    with pytest.raises(RecommendationError, match="nearest_vote expects no accuracies"):
        recommend(target, store, "vit", within=0.01, recommender="nearest_vote")


def test_an_optuna_study_begins_with_the_recommendation():
    optuna = pytest.importorskip("optuna", reason="the real package: pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    early = AdapterConfig("lora", rank=4, blocks=(0, 1))
    store = stored([{SSF: 0.8, early: 0.7, WIDE: 0.9}] * 2)
    found = recommend(embedding("new", seed=50), store, "vit")
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    queued = enqueue(study, found, 3)
    tried = []

    def objective(trial):
        config = config_of(
            {"method": trial.suggest_categorical("method", ["ssf", "lora", "adaptformer"])}
            | {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}
            | ({"blocks": trial.suggest_categorical("blocks", ["0,1", "10,11"])} if len(tried) == 2 else {})
        )
        tried.append(config)
        return 0.5

    study.optimize(objective, n_trials=4)
    assert [config.method for config in tried[:3]] == [c.config.method for c in found.ranking]
    assert tried[2].blocks == (0, 1)
    assert [config_of(parameters) for parameters in queued] == [c.config for c in found.ranking]
    with pytest.raises(SelectionError, match="count=0"):
        enqueue(study, found, 0)


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig("lora", sizes={"blocks.0.attn.qkv": 3, "blocks.1.attn.qkv": 1}),
        AdapterConfig("lora", blocks=[3, 4], targets=["fc1", "fc2"], placement="mass"),
        AdapterConfig("pixel_prompt", resized=True),
    ],
    ids=lambda config: config.label,
)
def test_optuna_keeps_every_setting_as_a_number_a_text_or_a_truth_value(config):
    kept = parameters_of(config)
    assert all(isinstance(value, str | int | float | bool) for value in kept.values())
    assert config_of(kept) == config


@pytest.mark.parametrize("others", [0, 600])
def test_a_recommendation_takes_a_handful_of_statements_however_large_the_store_is(others):
    store = stored([{SSF: 0.8, LORA: 0.7}] * 20)
    store.add_many(embedding(f"other {i}", seed=100 + i) for i in range(others))
    statements = []
    sqlalchemy.event.listen(store._engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert recommend(embedding("new", seed=50), store, "vit").evidence
    assert len(statements) <= 17


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ([(3, 96, 96)] * 3, " Their images were read at 96 x 96 pixels, yours are at 224 x 224 pixels."),
        ([(3, 224, 224)] * 3, ""),
        ([(3, 96, 96), (3, 96, 96), None], ""),
    ],
)
def test_evidence_from_images_of_another_size_is_told(there, told):
    own = OWN_FACTS
    store = TaskStore()
    for i, size in enumerate(there):
        trials = [dataclasses.replace(trial(0.6 + 0.1 * n), config=config) for n, config in enumerate((SSF, LORA))]
        facts = [dataclasses.replace(own, image_size=size)]
        store.add(embedding(f"task {i}", seed=i), trials=trials, facts=facts)
    found = recommend(embedding("new", seed=9), store, "vit", facts=own)
    assert found.explain().endswith(told)
    assert ("pixels" in found.explain()) == bool(told)
