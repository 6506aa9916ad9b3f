import numpy as np
import pytest

from adapters import AdapterConfig
from selection import RecommendationError, TaskStore, recommend
from selection.recommendation import shepard_weights
from tests.selection.test_store import embedding, trial

SSF, LORA, WIDE = AdapterConfig("ssf"), AdapterConfig("lora", rank=4), AdapterConfig("adaptformer", bottleneck=64)


def stored(scores, **changes):
    """A store with one task for each row of {config: score}, task i made with seed i."""
    store = TaskStore()
    for i, row in enumerate(scores):
        trials = [
            trial(score, backbone="vit", parameters=10 * (n + 1), seconds=100.0 * (n + 1)).__class__(
                **vars(trial(score, parameters=10 * (n + 1), seconds=100.0 * (n + 1), **changes)) | {"config": config}
            )
            for n, (config, score) in enumerate(row.items())
        ]
        store.add(embedding(f"task {i}", seed=i), trials=trials)
    return store


def test_the_prediction_is_the_stated_formula():
    scores = [{SSF: 0.9, LORA: 0.7}, {SSF: 0.3, LORA: 0.5}, {SSF: 0.6}]
    store, target = stored(scores), embedding("new", seed=50)
    found = recommend(target, store, "vit", k=3)
    neighbours = {e.task: e for e in found.evidence}
    distances = np.array([neighbours[f"task {i}"].distance for i in range(3)])
    weights = distances**-2 / (distances**-2).sum()
    means = np.array([0.8, 0.4, 0.6])
    lora_share = weights[:2] / weights[:2].sum()
    expected = {
        SSF: weights @ means + weights @ (np.array([0.9, 0.3, 0.6]) - means),
        LORA: weights @ means + lora_share @ (np.array([0.7, 0.5]) - means[:2]),
    }
    for candidate in found.ranking:
        assert candidate.predicted == pytest.approx(expected[candidate.config], abs=1e-4)
    assert found.predicted == max(c.predicted for c in found.ranking)
    assert found.config == max(expected, key=expected.get)
    mean = weights @ [0.9, 0.3, 0.6]
    spread = np.sqrt(weights @ (np.array([0.9, 0.3, 0.6]) - mean) ** 2)
    assert next(c.std for c in found.ranking if c.config == SSF) == pytest.approx(spread, abs=1e-4)
    assert sum(e.weight for e in found.evidence) == pytest.approx(1)


def test_a_stored_copy_of_the_target_decides():
    store = stored([{SSF: 0.9, LORA: 0.7}, {SSF: 0.2, LORA: 0.9}, {SSF: 0.2, LORA: 0.9}])
    found = recommend(embedding("copy", seed=0), store, "vit", k=3)
    assert found.config == SSF
    assert found.evidence[0].task == "task 0"
    assert found.evidence[0].best == SSF
    assert found.evidence[0].weight > 0.99
    assert recommend(embedding("copy", seed=0), store, "vit", k=2, exclude=["task 0"]).config == LORA


def test_an_easy_task_does_not_make_its_configurations_look_good():
    easy_only, both = {SSF: 0.99}, {SSF: 0.50, LORA: 0.52}
    found = recommend(embedding("new", seed=50), stored([easy_only, both, both]), "vit", k=3)
    assert found.config == LORA


def test_limits_leave_configurations_out_and_say_what_would_fit():
    store = stored([{SSF: 0.5, LORA: 0.7, WIDE: 0.9}])
    target = embedding("new", seed=50)
    assert recommend(target, store, "vit").config == WIDE
    assert recommend(target, store, "vit", max_params=20).config == LORA
    assert recommend(target, store, "vit", max_seconds=150).config == SSF
    with pytest.raises(RecommendationError, match="the smallest has 10 parameters and the quickest takes about 100 s"):
        recommend(target, store, "vit", max_params=5)


def test_tasks_without_trials_are_passed_over():
    store = stored([{}, {}, {SSF: 0.5}])
    assert [e.task for e in recommend(embedding("new", seed=0), store, "vit", k=2).evidence] == ["task 2"]


def test_trials_on_another_backbone_serve_where_there_are_no_others_and_the_note_says_so():
    store = stored([{SSF: 0.5, WIDE: 0.9}, {SSF: 0.6, WIDE: 0.8}])
    on_vit = recommend(embedding("new", seed=50), store, "vit_tiny_patch16_224")
    assert "no stored trial used vit_tiny_patch16_224" in on_vit.note
    assert on_vit.config == WIDE
    assert on_vit.ranking[0].parameters == 12 * (192 * 64 * 2 + 64 + 192)
    on_resnet = recommend(embedding("new", seed=50), store, "resnet18")
    assert [c.config for c in on_resnet.ranking] == [SSF]  # the other does not fit


def test_a_store_without_trials_and_an_unknown_backbone_are_named():
    with pytest.raises(RecommendationError, match="has no trials that fit vit"):
        recommend(embedding("new", seed=50), stored([{}]), "vit_tiny_patch16_224")
    with pytest.raises(RecommendationError, match="timm knows no model 'nonsense'"):
        recommend(embedding("new", seed=50), stored([{SSF: 0.5}]), "nonsense")
    with pytest.raises(RecommendationError, match="k=0"):
        recommend(embedding("new", seed=50), stored([{SSF: 0.5}]), "vit", k=0)


@pytest.mark.parametrize("distances", [[0.0, 1.0], [-0.1, 0.2, 0.3], [0.5, 0.5]])
def test_weights_are_positive_sum_to_one_and_fall_with_distance(distances):
    weights = shepard_weights(np.array(distances))
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights) <= 1e-12).all()
