"""The sketch index: the same neighbours as comparing everything, whatever happened to the store or the files."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selection import TaskFilter, TaskStore, load_library
from selection.store import search
from selection.store.index import SearchIndex
from selection.store.search import _smallest
from task2vec import distance_matrix
from task2vec.distances import ESTIMATES, Projection, sketch
from task2vec.distances.logarithms import logs
from tests.selection.test_store import embedding


def names(store, target, k=5, distance="cosine"):
    return [(n.name, pytest.approx(n.distance, abs=1e-9)) for n in store.nearest(target, k, distance=distance)]


def agree(large, small, targets=(99, 100)):
    """Whether both stores name the same neighbours; log_cosine's reference is the index's own centre."""
    for seed in targets:
        for distance in ("cosine", "asymmetric"):
            target = embedding("new", seed=seed)
            assert names(large, target, distance=distance) == names(small, target, distance=distance)


@pytest.fixture
def both(tmp_path):
    """A store that searches sketches from the first task on, and one that compares everything."""
    return TaskStore(tmp_path / "large.db", exact_up_to=0), TaskStore(tmp_path / "small.db")


def test_additions_replacements_and_removals_are_found_at_once(both):
    large, small = both
    for store in both:
        store.add_many(embedding(f"task {i}", seed=i) for i in range(30))
    agree(large, small)
    for store in both:
        store.add(embedding("nearer", seed=99))
        store.add(embedding("task 3", seed=100))
        store.remove("task 7")
    agree(large, small, targets=(99, 100, 7))
    for store in both:
        store.add_many(embedding(f"more {i}", seed=1000 + i) for i in range(60))
    agree(large, small, targets=(99, 1005))
    assert large.nearest(embedding("new", seed=99), 1)[0].name == "nearer"


def test_filters_and_exclusions_are_answered_from_as_far_as_needed(both, monkeypatch):
    monkeypatch.setattr(search, "CANDIDATES", 4)
    monkeypatch.setattr(search, "AT_ONCE", 7)
    for store in both:
        for i in range(40):
            store.add(embedding(f"task {i}", seed=i), tags=["last"] if i in (11, 23) else [])
    large, small = both
    target = embedding("new", seed=5)
    for wanted in (TaskFilter(tags=("last",)), TaskFilter(exclude=[f"task {i}" for i in range(30)])):
        expected = {n.name for n in small.nearest(target, 50, distance="cosine", which=wanted)}
        assert {n.name for n in large.nearest(target, 50, distance="cosine", which=wanted)} == expected
    assert len(large.nearest(target, 100)) == 40


def test_distances_without_a_sketch_are_compared_exactly(both):
    large, small = both
    for store in both:
        store.add_many(embedding(f"task {i}", seed=i) for i in range(30))
    target = embedding("new", seed=99)
    assert names(large, target, distance="jensen_shannon") == names(small, target, distance="jensen_shannon")


def test_the_index_survives_a_restart_and_is_not_built_again(both, monkeypatch):
    large, small = both
    for store in both:
        store.add_many(embedding(f"task {i}", seed=i) for i in range(30))
    agree(large, small)
    for store in both:
        store.add(embedding("later", seed=99))
        store.add(embedding("task 4", seed=98))
    large.nearest(embedding(seed=1))
    monkeypatch.setattr(Projection, "fit", lambda *_: pytest.fail("the index was built again"))
    again = TaskStore(large.location, exact_up_to=0)
    agree(again, small, targets=(99, 98, 4))
    for store in (again, small):
        store.remove("later")
    agree(TaskStore(large.location, exact_up_to=0), small, targets=(99, 98))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "garbage"])
@pytest.mark.parametrize("which", ["projection", "0"])
def test_a_damaged_index_is_built_again(both, damage, which):
    large, small = both
    for store in both:
        store.add_many(embedding(f"task {i}", seed=i) for i in range(30))
    agree(large, small)
    (path,) = Path(f"{large.location}.index").glob(f"*/{which}*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    {
        "flip": lambda: path.write_bytes(content),
        "truncate": lambda: path.write_bytes(content[:-9]),
        "remove": path.unlink,
        "garbage": lambda: path.write_bytes(b"garbage"),
    }[damage]()
    agree(TaskStore(large.location, exact_up_to=0), small)


def test_the_index_of_another_store_at_the_same_place_is_not_used(tmp_path):
    for seed in (0, 50):
        store = TaskStore(tmp_path / "tasks.db", exact_up_to=0)
        store.add_many(embedding(f"task {seed + i}", seed=seed + i) for i in range(10))
        assert store.nearest(embedding("new", seed=seed + 3), 1)[0].name == f"task {seed + 3}"
        store.close()
        for path in tmp_path.glob("tasks.db*"):
            if path.is_file():
                path.unlink()


def test_where_no_index_can_be_written_it_lives_in_memory(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = TaskStore(tmp_path / "tasks.db", exact_up_to=0, index=tmp_path / "file" / "index")
    store.add_many(embedding(f"task {i}", seed=i) for i in range(10))
    assert store.nearest(embedding("new", seed=3), 1)[0].name == "task 3"


def test_two_stores_share_the_files_of_one_index(tmp_path):
    first, second = (TaskStore(tmp_path / "tasks.db", exact_up_to=0) for _ in range(2))
    for start in range(0, 40, 10):
        writer, reader = (first, second) if start % 20 else (second, first)
        writer.add_many(embedding(f"task {start + i}", seed=start + i) for i in range(10))
        for store in (reader, writer):
            assert store.nearest(embedding("new", seed=start + 3), 1)[0].name == f"task {start + 3}"
    assert TaskStore(tmp_path / "tasks.db", exact_up_to=0).nearest(embedding(seed=37), 1)[0].name == "task 37"


def test_sketches_on_the_axes_of_another_process_are_not_used(tmp_path):
    store = TaskStore(tmp_path / "tasks.db", exact_up_to=0)
    store.add_many(embedding(f"task {i}", seed=i) for i in range(10))
    store.nearest(embedding(seed=1))
    store.add(embedding("later", seed=50))
    store.nearest(embedding(seed=1))
    (projection,) = (tmp_path / "tasks.db.index").glob("*/projection*")
    old = projection.read_bytes()
    other = TaskStore(tmp_path / "tasks.db", exact_up_to=0, index=tmp_path / "other")
    other.nearest(embedding(seed=1))  # its axes are those of eleven tasks
    (new,) = (tmp_path / "other").glob("*/projection*")
    assert new.read_bytes() != old
    projection.write_bytes(new.read_bytes())
    mixed = SearchIndex("a" * 32, "montecarlo", 20, False, projection.parent)
    assert len(mixed) == 0


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "search", "reopen"]), st.integers(0, 6)), max_size=15))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_changes_leaves_the_same_neighbours(steps):
    with tempfile.TemporaryDirectory() as folder:
        large, expected = TaskStore(Path(folder) / "tasks.db", exact_up_to=0), {}
        for number, (action, which) in enumerate(steps):
            if action == "add":
                large.add(embedding(str(which), seed=number))
                expected[str(which)] = number
            elif action == "remove" and str(which) in expected:
                large.remove(str(which))
                del expected[str(which)]
            elif action == "reopen":
                large.close()
                large = TaskStore(Path(folder) / "tasks.db", exact_up_to=0)
            if expected:
                found = large.nearest(embedding("new", seed=77), 10, distance="cosine")
                fishers = np.stack([embedding(seed=seed).fisher for seed in expected.values()])
                true = distance_matrix(fishers, "cosine", embedding(seed=77).fisher[None])[:, 0]
                order = [list(expected)[i] for i in np.argsort(true)]
                assert [n.name for n in found] == order
        large.close()


@pytest.mark.parametrize("distance", sorted(ESTIMATES))
def test_candidates_of_resampled_real_tasks_hold_the_nearest_ones(distance):
    """A hundredth of all as candidates; the sketch is far smaller than the embeddings.

    A stored one mixes a few real ones however many there are: mixtures of ever more would be ever more alike.
    """
    real = logs(np.stack([e.fisher for e in load_library().embeddings()]).astype(np.float64))
    generator = np.random.default_rng(0)
    mixed = generator.dirichlet(np.full(len(real), 8 / len(real)), 5020) @ real
    mixed += 0.2 * generator.standard_normal(mixed.shape) + 0.3 * generator.standard_normal((len(mixed), 1))
    fisher = np.exp(mixed).astype(np.float32)
    stored, targets = fisher[:5000], fisher[5000:]
    projection = Projection.fit(stored[::5])
    assert stored.shape[1] > sketch.AXES * 10
    true = distance_matrix(stored, distance, targets, reference=projection.centre)
    everything, hits = projection.sketch(np.arange(5000), stored), []
    for column, target in zip(true.T, targets, strict=True):
        estimate = ESTIMATES[distance](everything, projection.sketch([-1], target[None]), stored.shape[1])
        hits.append(len(set(np.argsort(column)[:10]) & set(np.argsort(estimate)[:50])) / 10)
    assert np.mean(hits) >= 0.98


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_parts_of_an_order_hold_each_once_however_many_are_equal(values, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values)))) | {len(values)})
    parts = [_smallest(np.array(values, np.float32), s, e) for s, e in zip([0, *cuts], cuts, strict=False)]
    found = np.concatenate(parts)
    assert sorted(found) == list(range(len(values)))
    for before, after in pairwise(parts):
        assert max(values[i] for i in before) <= min(values[i] for i in after)
