import sqlite3

import numpy as np
import pytest
import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapters
from adapters import AdapterConfig
from selection import StoreError, TaskStore, Trial
from task2vec import Classifier, Layer, TaskEmbedding, distance


def embedding(name="birds", seed=0, probe="p" * 32, method="montecarlo", dimension=20):
    generator = np.random.default_rng(seed)
    head = Classifier(np.ones((2, 3), np.float32), np.zeros(2, np.float32), 0.1, 0.9)
    fisher = np.exp(generator.standard_normal(dimension)).astype(np.float32)
    return TaskEmbedding(fisher, (Layer("conv", dimension),), probe, "probe", method, 100, ("a", "b"), head, name)


def trial(score=0.5, seed=0, method="ssf", **changes):
    values = {"backbone": "vit", "backbone_fingerprint": "f" * 32, "validation": 0.6, "parameters": 10, "seconds": 3.0}
    return Trial(AdapterConfig(method), score=score, seed=seed, num_images=100, **values | changes)


def test_what_is_added_comes_back(store):
    store.add(embedding(), trials=[trial(), trial(seed=1)])
    task = store.task("birds")
    assert (task.name, task.num_images, task.classes) == ("birds", 100, ("a", "b"))
    assert task.trials == (trial(), trial(seed=1))
    (found,) = store.embeddings("p" * 32)
    np.testing.assert_array_equal(found.fisher, embedding().fisher)
    assert found.layers == embedding().layers
    assert "birds" in store
    assert len(store) == 1


def test_a_store_survives_being_opened_again(tmp_path):
    TaskStore(tmp_path / "tasks.db").add(embedding(), trials=[trial()])
    again = TaskStore(tmp_path / "tasks.db")
    assert again.names() == ["birds"]
    assert again.task("birds").trials == (trial(),)


def test_adding_again_replaces_the_same_embedding_and_trial_and_keeps_the_others(store):
    store.add(embedding(), trials=[trial(0.5), trial(0.7, seed=1)])
    store.add(embedding(seed=9), trials=[trial(0.8)])
    store.add(embedding(method="exact"))
    assert [t.score for t in store.task("birds").trials] == [0.8, 0.7]
    np.testing.assert_array_equal(store.embeddings("p" * 32, "montecarlo")[0].fisher, embedding(seed=9).fisher)
    assert len(store.embeddings("p" * 32)) == 2


@pytest.mark.parametrize("name", ["cosine", "asymmetric", "log_cosine"])
def test_nearest_ranks_by_the_distance_from_the_stored_task_to_the_target(store, name):
    stored = [embedding(f"task {i}", seed=i) for i in range(8)]
    for e in stored:
        store.add(e)
    target = embedding("new", seed=99)
    reference = np.log([*(e.fisher for e in stored), target.fisher]).mean(axis=0)
    expected = sorted((distance(e, target, name, reference=reference), e.task) for e in stored)
    found = store.nearest(target, 3, distance=name)
    assert [n.name for n in found] == [task for _, task in expected[:3]]
    np.testing.assert_allclose([n.distance for n in found], [d for d, _ in expected[:3]], atol=1e-6)
    assert "task 3" not in [n.name for n in store.nearest(target, 8, distance=name, exclude=["task 3"])]


def test_a_stored_task_is_its_own_nearest(store):
    for i in range(5):
        store.add(embedding(f"task {i}", seed=i))
    assert store.nearest(embedding("copy", seed=2), 1)[0].name == "task 2"


def test_embeddings_of_another_probe_or_estimator_are_not_compared(store):
    store.add(embedding())
    for other in (embedding(probe="q" * 32), embedding(method="exact")):
        with pytest.raises(StoreError, match="has no task embedded with probe"):
            store.nearest(other)


def test_removing_a_task_forgets_all_of_it(store):
    store.add(embedding(), trials=[trial()])
    store.remove("birds")
    assert len(store) == 0
    assert store.embeddings("p" * 32) == []
    store.add(embedding())
    assert store.task("birds").trials == ()


def test_unknown_tasks_are_answered_with_those_there_are(store):
    store.add(embedding())
    for call in (store.task, store.remove, lambda name: store.add_trials(name, [trial()])):
        with pytest.raises(StoreError, match="has no task 'fish'; it has birds"):
            call("fish")


@pytest.mark.parametrize("name", ["x" * 201, "x" * 1_000_000])
def test_impossible_names_are_refused(store, name):
    with pytest.raises(StoreError, match="1 to 200 characters"):
        store.add(embedding(), name=name)
    assert len(store) == 0


def test_a_tuned_adapter_is_copied_beside_the_store(tmp_path):
    model = adapters.attach(timm.create_model("task2vec_vit_patch4_32"), AdapterConfig("ssf"), 3)
    adapters.save(model, tmp_path / "tuned")
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding(), adapter=tmp_path / "tuned")
    kept = store.task("birds").adapter
    assert kept is not None
    assert kept.parent.parent == tmp_path
    assert adapters.read_metadata(kept) == adapters.read_metadata(tmp_path / "tuned")


def test_something_that_is_no_adapter_is_refused_and_nothing_is_stored(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    with pytest.raises(StoreError, match="is not a saved adapter"):
        store.add(embedding(), adapter=tmp_path)
    assert len(store) == 0


def test_files_that_are_no_store_are_refused_and_left_as_they_are(tmp_path):
    (tmp_path / "text.db").write_text("hello, I am not a database" * 100)
    with pytest.raises(StoreError, match=r"text\.db cannot be opened as a task store"):
        TaskStore(tmp_path / "text.db")
    assert (tmp_path / "text.db").read_text() == "hello, I am not a database" * 100
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table recipes (name text)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match=r"other\.db is a database but not a task store"):
        TaskStore(tmp_path / "other.db")
    tables = sqlite3.connect(tmp_path / "other.db").execute("select name from sqlite_master").fetchall()
    assert tables == [("recipes",)]


def test_a_newer_schema_is_refused(tmp_path):
    TaskStore(tmp_path / "tasks.db")
    connection = sqlite3.connect(tmp_path / "tasks.db")
    connection.execute("update schema set version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="schema version 99"):
        TaskStore(tmp_path / "tasks.db")


def test_a_failed_addition_leaves_nothing_half_written(store):
    store.add(embedding("first"))

    def broken():
        yield trial()
        raise RuntimeError("the power failed")

    with pytest.raises(RuntimeError):
        store.add(embedding("second"), trials=broken())
    assert store.names() == ["first"]
    assert len(store.embeddings("p" * 32)) == 1


def test_a_damaged_embedding_is_named(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding())
    connection = sqlite3.connect(tmp_path / "tasks.db")
    connection.execute("update embeddings set tensors = x'00ff'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="the stored embedding of 'birds' is damaged"):
        store.embeddings("p" * 32)


NAMES = st.sampled_from(["ant", "bee", "cat", "Dög", "e/f", "..", "'; drop table tasks; --"])


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "trial"]), NAMES, st.integers(0, 3)), max_size=25))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_changes_equals_a_plain_dictionary(steps):
    store, expected = TaskStore(), {}
    for action, name, number in steps:
        if action == "add":
            store.add(embedding(name, seed=number))
            expected[name] = (number, expected.get(name, (0, {}))[1])
        elif name not in expected:
            with pytest.raises(StoreError):
                store.remove(name)
        elif action == "remove":
            store.remove(name)
            del expected[name]
        else:
            store.add_trials(name, [trial(number / 10, seed=number % 2)])
            expected[name][1][number % 2] = number / 10
    assert store.names() == sorted(expected)
    for name, (seed, trials) in expected.items():
        assert {t.seed: t.score for t in store.task(name).trials} == trials
        stored = next(e for e in store.embeddings("p" * 32) if e.task == name)
        np.testing.assert_array_equal(stored.fisher, embedding(seed=seed).fisher)
