"""The comparison of rules of placement."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import adapters
from tests.conftest import SHARED

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def placement(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import placement

    yield placement
    for name in ("placement", "placement_page"):
        sys.modules.pop(name, None)


@pytest.fixture
def page(placement):
    import placement_page

    return placement_page


def test_a_difference_is_over_tasks_and_their_common_seeds(page):
    generator = np.random.default_rng(0)
    rows, means = [], []
    for task in range(6):
        gains = generator.normal(0.02, 0.03, 3)
        means.append(100 * gains.mean())
        for seed, gain in enumerate(gains):
            rows += [
                {"task": task, "source": task, "seed": seed, "way": "a", "score": 0.5 + gain},
                {"task": task, "source": task, "seed": seed, "way": "b", "score": 0.5},
            ]
        rows.append({"task": task, "source": task, "seed": 9, "way": "a", "score": 1.0})  # has no counterpart
    found = page.difference(rows, lambda r: r["way"] == "a", lambda r: r["way"] == "b")
    assert (found.mean, found.worst, found.tasks) == (pytest.approx(np.mean(means)), pytest.approx(min(means)), 6)
    expected = norm.interval(0.95, np.mean(means), np.std(means) / np.sqrt(6))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.3)
    assert page.difference(rows[:3], lambda r: r["way"] == "a", lambda r: r["way"] == "b") is None


def test_finished_trainings_are_not_run_again_and_the_first_are_at_the_parameters_of_rank_8(placement, tmp_path):
    asked = placement.jobs()
    assert len(set(asked)) == len(asked) == 15 * 3 * 4 * len(placement.WAYS)
    assert all(job.multiple == 1 and job.seed == 0 for job in asked[: 15 * len(placement.WAYS)])
    done = asked[0]
    (tmp_path / "trainings.jsonl").write_text(json.dumps(done._asdict() | {"score": 0.5}) + "\n")
    assert placement.missing(asked, tmp_path) == asked[1:]


def test_a_place_is_learned_from_tasks_of_other_sources_alone(page):
    generator = np.random.default_rng(0)
    told = generator.standard_normal(30)
    tasks = [
        page.Tried(f"task {i}", f"source {i // 2}", np.array([5 * x, -5 * x]), {"facts": np.array([x])})
        for i, x in enumerate(told)
    ]
    np.testing.assert_allclose(page.learned_gains(tasks, "facts"), np.abs(5 * told))
    alone = [page.Tried("task", "source", np.array([9.0, -9.0]), {}), *tasks[:4]]
    without = np.mean([task.gains for task in tasks[:4]], axis=0)  # its own gain is not looked at
    assert page.learned_gains(alone, None)[0] == alone[0].gains[np.argmax(without)]


def test_every_way_is_known_to_the_register(placement):
    assert {way.rule for way in placement.PLACEMENTS.values()} <= set(adapters.RULES)
    assert {way.measure for way in placement.PLACEMENTS.values()} - {None} == set(placement.MEASURES)


def test_the_tasks_are_of_the_ground_five_of_each_group(placement, datasets):
    groups = [task.group for task in placement.ground(datasets) if task.name in placement.TASKS]
    assert {group: groups.count(group) for group in groups} == {"natural": 5, "specialised": 5, "structured": 5}


@pytest.mark.slow
def test_a_small_run_is_written_to_the_page(placement, page, datasets, tmp_path, monkeypatch):
    weights = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    if not weights.exists():
        pytest.skip(f"there is no {weights}")
    monkeypatch.setattr(placement, "IMAGES", 32)
    monkeypatch.setattr(placement, "EPOCHS", 8)
    monkeypatch.setattr(placement, "TENTH", 1)
    monkeypatch.setattr(placement, "LORA", placement.LORA | {"epochs": 1})
    monkeypatch.setattr(page, "DOCS", tmp_path)
    tasks = ("mnist", "magnetic_tile")
    monkeypatch.setattr(placement, "TASKS", tasks)
    for task, kind in itertools.product(tasks, placement.MEASURES):
        placement.measure(datasets, weights, tmp_path, None, (task, 0, kind))
    ways = ["uniform", "relative_tenth", "gps", "fish", "adalora"]  # each another path
    for way in ways:
        placement.train(datasets, weights, tmp_path, None, placement.Job("mnist", 0, way, 0.5))
    rows = [json.loads(line) for line in (tmp_path / "trainings.jsonl").read_text().splitlines()]
    assert [row["way"] for row in rows] == ways
    for row in rows:
        assert 0 <= row["score"] <= 1
        assert not math.isnan(row["score"])
        assert row["way"] == "adalora" or 0.95 * row["budget"] < row["parameters"] <= row["budget"] == 36_864
    placement.cost(datasets, weights, tmp_path, task=["mnist"], repeats=1)
    page.write(tmp_path)
    written = (tmp_path / "placement.md").read_text()
    assert "| `few` |" in written
    assert "relative mass after a tenth of training" in written
    assert "| `relative_mass` |" in written
