"""Which expert is chosen for a target, and what a start from it is worth."""

import sys
from pathlib import Path

import pytest

from tests.selection.test_store import embedding

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The two files as modules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import expert_choice
    import warm_starts

    yield expert_choice, warm_starts
    for name in ("expert_choice", "warm_starts"):
        sys.modules.pop(name, None)


def test_the_nearest_expert_is_chosen_by_distance_and_the_best_by_the_oracle(scripts):
    experts = {name: embedding(name, seed=i) for i, name in enumerate("abcdef")}
    targets = {name: embedding(name, seed=i) for i, name in enumerate("bacdef")}  # the target a looks like the expert b
    scores = {"logme": 0.0, "leep": 0.0, "h_score": 0.0, "nce": 0.0}
    rows = [
        {"target": t, "source": t, "expert": e, "accuracy": 0.9 if (t, e) == ("a", "b") else 0.5 - 0.01 * ord(e) % 0.1}
        | scores
        for t in targets
        for e in experts
        if t != e
    ]
    rows.append({"target": "a", "source": "a", "expert": "no expert", "accuracy": 0.8} | scores)
    found = {o.way: o for o in scripts[0].expert_outcomes(rows, targets, experts) if o.target == "a"}
    assert found["log_cosine"].share == found["cosine"].share == found["best expert"].share == 0
    assert found["random expert"].share == 1
    assert found["no expert"].lost == pytest.approx(0.1)


def test_only_targets_with_an_expert_of_their_family_among_the_candidates_count(scripts):
    rows = [{"target": "a", "expert": "c"}, {"target": "a", "expert": "b"}, {"target": "c", "expert": "a"}]
    assert scripts[0].answerable(rows, {"one": ("a", "b"), "other": ("c",)}) == rows[:2]


def test_warm_starts_are_averaged_over_seeds_and_gains_predicted_from_other_sources(scripts):
    rows = [
        {"target": name, "source": name, "seed": seed, "distance": distance, "cold": 0.5, "warm": 0.5 + gain}
        for name, distance, gain in (("a", 0.1, 0.1), ("b", 0.2, 0.05), ("c", 0.8, -0.05), ("d", 0.9, -0.1))
        for seed in (0, 1)
    ]
    found = scripts[1].warm_starts(rows)
    assert (found.targets, found.better, found.worse) == (4, 0.5, 0.5)
    assert (found.predicted, found.better_where_predicted) == (2, 1.0)
    assert found.gain == pytest.approx(0)
