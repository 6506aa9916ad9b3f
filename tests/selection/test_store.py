import contextlib
import dataclasses
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sql
import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as to_bytes

import adapters
from adapters import AdapterConfig, BackboneId
from selection import (
    StoredTask,
    StoreError,
    TaskFilter,
    TaskStore,
    Trial,
    export_store,
    import_archive,
    load_library,
    merge_stores,
)
from selection.store import BackboneFacts
from task2vec import Classifier, EmbeddingError, Layer, TaskEmbedding, distance
from task2vec.embedding import embedding_parts
from task2vec.thumbnails import thumbnails_of
from tests.conftest import random_task


def embedding(name="birds", seed=0, probe="a" * 32, method="montecarlo", dimension=20):
    generator = np.random.default_rng(seed)
    head = Classifier(np.ones((2, 3), np.float32), np.zeros(2, np.float32), 0.1, 0.9)
    fisher = np.exp(generator.standard_normal(dimension)).astype(np.float32)
    return TaskEmbedding(fisher, (Layer("conv", dimension),), probe, "probe", method, 100, ("a", "b"), head, name)


def trial(score=0.5, seed=0, method="ssf", **changes):
    values = {"backbone": BackboneId("vit", "", "f" * 32), "validation": 0.6, "parameters": 10, "seconds": 3.0}
    return Trial(AdapterConfig(method), score=score, seed=seed, num_images=100, **values | changes)


def pictured(name="birds", seed=0):
    return dataclasses.replace(embedding(name, seed), thumbnails=thumbnails_of(random_task(seed=seed), 4))


def test_what_is_added_comes_back(store):
    store.add(embedding(), trials=[trial(), trial(seed=1)])
    task = store.task("birds")
    assert (task.name, task.num_images, task.classes) == ("birds", 100, ("a", "b"))
    assert task.trials == (trial(), trial(seed=1))
    (found,) = store.embeddings("a" * 32)
    np.testing.assert_array_equal(found.fisher, embedding().fisher)
    assert found.layers == embedding().layers
    assert "birds" in store
    assert len(store) == 1


def test_thumbnails_are_kept_with_their_task_until_they_are_forgotten(store):
    birds, fish = pictured(), pictured("fish", seed=1)
    store.add(birds)
    store.add_many([fish, embedding("cats")])
    assert (store.thumbnails("birds"), store.thumbnails("cats")) == (birds.thumbnails, ())
    assert store.pictured() == {"birds", "fish"}
    assert store.verify() == []
    store.add(embedding("birds", seed=3))  # without any: those that are known stay
    assert store.thumbnails("birds") == birds.thumbnails
    store.add_many([pictured("birds", seed=2), embedding("fish")])
    assert store.thumbnails("birds") == pictured("birds", seed=2).thumbnails
    assert (store.forget_thumbnails("birds"), store.forget_thumbnails("birds")) == (4, 0)
    assert store.pictured() == {"fish"}
    store.remove("fish")
    store.add(embedding("fish"))
    assert store.thumbnails("fish") == ()
    assert store.forget_thumbnails() == 0


def test_forgotten_thumbnails_leave_no_bytes_in_the_file(tmp_path):
    path, store = tmp_path / "tasks.db", TaskStore(tmp_path / "tasks.db")
    store.add(pictured())
    some = pictured().thumbnails[0].webp[40:80]

    def bytes_of():
        store.close()
        return b"".join(file.read_bytes() for file in path.parent.glob("tasks.db*") if file.is_file())

    assert some in bytes_of()
    store.forget_thumbnails()
    store.vacuum()
    assert some not in bytes_of()


def test_a_stranger_s_database_gives_no_pictures_that_are_none(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(pictured())
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as database:
        database.execute("UPDATE thumbnails SET webp = ? WHERE id = 2", (b"<svg onload=alert(1)>",))
        database.commit()
    with pytest.raises(StoreError, match=r"thumbnails of 'birds' are damaged .thumbnail 1 is not a plain WebP"):
        store.thumbnails("birds")
    assert len(store.verify()) == 1


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
    np.testing.assert_array_equal(store.embeddings("a" * 32, "montecarlo")[0].fisher, embedding(seed=9).fisher)
    assert len(store.embeddings("a" * 32)) == 2


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
    without = TaskFilter(exclude=["task 3"])
    assert "task 3" not in [n.name for n in store.nearest(target, 8, distance=name, which=without)]


def test_a_stored_task_is_its_own_nearest(store):
    for i in range(5):
        store.add(embedding(f"task {i}", seed=i))
    assert store.nearest(embedding("copy", seed=2), 1)[0].name == "task 2"


def test_embeddings_of_another_probe_or_estimator_are_not_compared(store):
    store.add(embedding())
    for other in (embedding(probe="b" * 32), embedding(method="exact")):
        with pytest.raises(StoreError, match="has no task embedded with probe"):
            store.nearest(other)


def test_an_embedding_of_other_layers_is_refused_beside_others_of_its_probe_and_estimator(store):
    store.add(embedding(dimension=20))
    short = embedding("short", dimension=12)
    for add in (lambda: store.add(short), lambda: store.add_many([embedding("long"), short])):
        with pytest.raises(StoreError, match=r"'short' has 12 filters, and that of '\w+' by .* has 20: they were"):
            add()
    assert store.names() == ["birds"]
    store.add(embedding("short", dimension=12, method="exact"))  # which is not compared with those
    store.add(embedding(dimension=12))  # nothing is left that it could not be compared with
    store.add(short)
    assert {n.name for n in store.nearest(short, distance="cosine")} == {"birds", "short"}


@pytest.mark.parametrize("exact_up_to", [50_000, 0])
@pytest.mark.parametrize("distance_name", ["cosine", "log_cosine", "kl"])
def test_a_store_of_an_earlier_version_with_embeddings_of_several_layers_is_searched_and_verified(
    tmp_path, monkeypatch, exact_up_to, distance_name
):
    old = TaskStore(tmp_path / "tasks.db")
    with monkeypatch.context() as earlier:
        for module in ("rows", "store"):
            earlier.setattr(f"selection.store.{module}.refuse_other_layers", lambda *_: None)
        old.add_many(embedding(f"task {i}", seed=i, dimension=12 if i == 3 else 20) for i in range(30))
    store = TaskStore(tmp_path / "tasks.db", exact_up_to=exact_up_to)
    found = store.nearest(embedding("new", seed=5), 40, distance=distance_name)
    assert found[0].name == "task 5"
    assert {n.name for n in found} == {f"task {i}" for i in range(30) if i != 3}
    near = store.nearest(embedding("short", seed=4, dimension=12), 40, distance=distance_name)
    assert [n.name for n in near] == ["task 3"]
    (problem,) = store.verify()
    assert "the embedding of 'task 3' under probe probe (aaaaaaaa) by montecarlo has 12 filters" in problem
    new = TaskStore(tmp_path / "new.db")
    report = merge_stores(new, store)
    assert (len(report.added), len(report.conflicts)) == (29, 1)
    assert "'task 3' has 12 filters" in report.conflicts[0]
    assert new.verify() == []
    assert merge_stores(store, store).conflicts == ()


def test_what_nothing_can_be_compared_with_is_said_in_one_sentence(store):
    with pytest.raises(StoreError, match="holds no task; fill it with task2vec store add STORE FOLDER --probe probe"):
        store.nearest(embedding())
    store.add(embedding())
    with pytest.raises(StoreError, match=r"'short' has 12 filters, and those in .* have 20; measure the same layers"):
        store.nearest(embedding("short", dimension=12))


@pytest.mark.parametrize("k", [0, -1, 2.5, float("nan"), "3"])
def test_a_number_of_neighbours_that_is_none_is_refused(store, k):
    store.add(embedding())
    with pytest.raises(StoreError, match=r"is no number of tasks; give a whole number from 1 on"):
        store.nearest(embedding(), k)
    assert [len(store.nearest(embedding(), some)) for some in (1, np.int64(3), 10**30)] == [1, 1, 1]


def test_removing_a_task_forgets_all_of_it(store):
    store.add(embedding(), trials=[trial()])
    store.remove("birds")
    assert len(store) == 0
    assert store.embeddings("a" * 32) == []
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


@pytest.fixture
def long_estimator(monkeypatch):
    """An estimator as somebody's package may call it, which makes embeddings only here."""
    known = ["x" * 200, "x" * 201]
    monkeypatch.setattr("task2vec.embedding.ESTIMATORS", known)
    return known


def test_names_of_estimators_have_one_length_in_every_store(store, long_estimator):
    fits, long = (embedding(method=name) for name in long_estimator)
    store.add(fits)
    assert [e.method for e in store.embeddings()] == [fits.method]
    for add in (store.add, lambda e: store.add_many([e])):
        with pytest.raises(StoreError, match="an estimator must have at most 200 characters, not 201 as 'x"):
            add(long)
    assert len(store.embeddings()) == 1


def test_names_of_backbones_have_one_length_in_every_store(store):
    fits, long = (trial(backbone=BackboneId("x" * n, "", "f" * 32)) for n in (200, 201))
    store.add(embedding(), trials=[fits])
    for add in (
        lambda: store.add(embedding("fish"), trials=[long]),
        lambda: store.add_trials("birds", [long]),
        lambda: store.add_trials_of([("birds", trial()), ("birds", long)]),
    ):
        with pytest.raises(StoreError, match="a backbone must have at most 200 characters, not 201 as 'x"):
            add()
    assert (store.names(), store.task("birds").trials) == (["birds"], (fits,))


def test_other_texts_may_be_of_any_length(store):
    long = dataclasses.replace(embedding(), classes=("a" * 9000, "b"))
    store.add(long, trials=[trial(environment="e" * 9000)], tags=["t" * 9000], source="s" * 9000)
    task = store.task("birds")
    assert (task.classes, task.tags, task.source) == (long.classes, ("t" * 9000,), "s" * 9000)
    assert task.trials == (trial(environment="e" * 9000),)
    assert [t.name for t in store.tasks(TaskFilter(tags=("t" * 9000,), sources=("s" * 9000,)))] == ["birds"]


def long_config(rank=4):
    """A LoRA config of 5,000 characters, as `adapters.allocate` gives for large backbones."""
    sizes = {f"layers.{i % 4}.blocks.{i}.attn.qkv": 1 + (i * i + rank) % 8 for i in range(200)}
    config = AdapterConfig("lora", rank=rank, sizes=tuple(sizes.items()))
    assert len(json.dumps(config.to_dict())) > 5000
    return config


def test_a_config_of_any_length_is_stored_and_told_from_others(store, tmp_path):
    first, other = (dataclasses.replace(trial(0.5), config=long_config(rank)) for rank in (4, 5))
    store.add(embedding(), trials=[first])
    store.add_trials("birds", [other, dataclasses.replace(first, seed=1)])
    store.add_trials("birds", [dataclasses.replace(first, score=0.75)])
    expected = (dataclasses.replace(first, score=0.75), other, dataclasses.replace(first, seed=1))
    assert store.task("birds").trials == expected
    assert store.verify() == []
    export_store(store, tmp_path / "all.zip")
    imported, merged = TaskStore(tmp_path / "imported.db"), TaskStore()
    import_archive(imported, tmp_path / "all.zip")
    merge_stores(merged, store)
    for copy in (imported, merged):
        assert copy.task("birds").trials == expected
        assert merge_stores(copy, store).extended == ()


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


def test_another_database_keeps_even_its_journal(tmp_path):
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table recipes (name text)")
    other.commit()
    with pytest.raises(StoreError):
        TaskStore(tmp_path / "other.db")
    assert other.execute("pragma journal_mode").fetchone() == ("delete",)


def write_schema_1(path):
    """A store as the first schema kept it, with one task, two trials and an adapter beside it."""
    tensors, facts = embedding_parts(embedding())
    values = trial().to_dict() | {"config": json.dumps(trial().config.to_dict(), sort_keys=True)}
    for later in ("environment", "curve"):
        values.pop(later)
    database = sqlite3.connect(path)
    database.executescript("""
        create table schema (version integer primary key);
        create table tasks (id integer primary key, name varchar(200) not null unique, num_images integer not null,
            classes text not null, adapter text);
        create table embeddings (id integer primary key, task_id integer not null references tasks (id) on delete
            cascade, probe varchar(32) not null, method varchar(32) not null, tensors blob not null,
            facts text not null, unique (task_id, probe, method));
        create table trials (id integer primary key, task_id integer not null references tasks (id) on delete cascade,
            config varchar(500) not null, backbone varchar(200) not null, backbone_fingerprint varchar(32) not null,
            score float not null, validation float not null, parameters integer not null, seconds float not null,
            seed integer not null, num_images integer not null,
            unique (task_id, backbone_fingerprint, config, seed, num_images));
        insert into schema values (1);
        insert into tasks values (1, 'birds', 100, '["a", "b"]', null);
    """)
    database.execute(
        "insert into embeddings values (1, 1, ?, 'montecarlo', ?, ?)", ("a" * 32, to_bytes(tensors), json.dumps(facts))
    )
    columns = ", ".join(values)
    marks = ", ".join("?" * len(values))
    database.execute(f"insert into trials (id, task_id, {columns}) values (1, 1, {marks})", tuple(values.values()))
    database.commit()
    database.close()


def test_a_store_of_the_first_schema_is_migrated_and_keeps_everything(tmp_path):
    write_schema_1(tmp_path / "old.db")
    store = TaskStore(tmp_path / "old.db")
    assert store.task("birds") == StoredTask("birds", 100, ("a", "b"), (trial(),), None)
    np.testing.assert_array_equal(store.embeddings("a" * 32)[0].fisher, embedding().fisher)
    assert store.verify() == []
    store.add(embedding("fish", seed=1), tags=["wet"])
    again = TaskStore(tmp_path / "old.db")
    assert again.names() == ["birds", "fish"]
    assert [n.name for n in again.nearest(embedding("copy", seed=1), 1)] == ["fish"]


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path, monkeypatch):
    """The last step fails, and all before it are taken back."""
    from selection.store import trial as trials

    def broken(values):
        raise OSError("the power failed")

    write_schema_1(tmp_path / "old.db")
    monkeypatch.setattr("selection.store.migrations.configs.config_of_version_0_1", broken)
    with pytest.raises(StoreError, match="the power failed"):
        TaskStore(tmp_path / "old.db")
    monkeypatch.setattr("selection.store.migrations.configs.config_of_version_0_1", trials.config_of_version_0_1)
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as old:
        assert old.execute("SELECT version FROM schema").fetchall() == [(1,)]
    assert TaskStore(tmp_path / "old.db").verify() == []


def test_a_file_that_version_0_1_wrote_opens_and_means_what_it_meant(tmp_path):
    shutil.copy(Path(__file__).parent / "data" / "store_of_version_0_1.db", tmp_path / "old.db")
    store = TaskStore(tmp_path / "old.db")
    assert store.names() == ["birds", "fish"]
    assert store.verify() == []
    birds = store.task("birds")
    assert (birds.tags, birds.source) == (("wild",), "garden")
    prompt, lora = birds.trials
    assert (prompt.config.resized, prompt.config.batch_size, prompt.score, prompt.curve) == (True, 64, 0.5, ())
    assert (lora.config.rank, lora.config.batch_size, lora.seed, lora.score) == (4, 64, 1, 0.75)
    assert store.nearest(embedding("copy", seed=1), 1)[0].name == "fish"
    store.add_trials("fish", [trial(None, seed=2, curve=((0.5, 1.0),))])
    assert len(TaskStore(tmp_path / "old.db").task("fish").trials) == 2


def test_a_migrated_store_has_the_tables_of_a_new_one(tmp_path):
    write_schema_1(tmp_path / "old.db")
    shutil.copy(Path(__file__).parent / "data" / "store_of_version_0_1.db", tmp_path / "three.db")

    def tables(path):
        store = TaskStore(path)
        found = sql.inspect(store._engine)
        return {
            name: {(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)}
            for name in found.get_table_names()
            if name != "alembic_version"
        }

    new = tables(tmp_path / "new.db")
    for old in (tables(tmp_path / "old.db"), tables(tmp_path / "three.db")):
        assert {t: {c[0] for c in columns} for t, columns in old.items()} == {
            t: {c[0] for c in columns} for t, columns in new.items()
        }
        assert {name: nullable for name, _, nullable in old["trials"]}["score"]


def test_many_tasks_are_stored_as_one_by_one(store):
    store.add(embedding("task 3", seed=77), trials=[trial()], tags=["kept"])
    store.add_many(embedding(f"task {i}", seed=i) for i in range(2500))
    assert len(store) == 2500
    assert store.task("task 3").trials == (trial(),)
    assert store.task("task 3").tags == ("kept",)
    for i in (0, 3, 2499):
        found = store.embeddings(name=f"task {i}")[0]
        np.testing.assert_array_equal(found.fisher, embedding(seed=i).fisher)
    assert store.nearest(embedding("copy", seed=2022), 1)[0].name == "task 2022"
    with pytest.raises(StoreError, match="1 to 200 characters"):
        store.add_many([embedding("fine"), embedding("x" * 201)])
    assert "fine" not in store


def test_tags_and_sources_are_kept_and_searched(store):
    store.add(embedding("birds", seed=1), tags=["wild", "small"], source="garden")
    store.add(embedding("birds", seed=1), tags=["blue"])
    store.add(embedding("fish", seed=2), tags=["wet"])
    assert store.task("birds").tags == ("blue", "small", "wild")
    assert store.task("birds").source == "garden"
    found = store.nearest(embedding("copy", seed=1), 5, which=TaskFilter(tags=("wet",)))
    assert [n.name for n in found] == ["fish"]


def test_a_change_by_another_process_is_seen_at_once(tmp_path):
    one, other = TaskStore(tmp_path / "tasks.db"), TaskStore(tmp_path / "tasks.db")
    one.add(embedding("birds", seed=1))
    assert [n.name for n in one.nearest(embedding("copy", seed=2), 2)] == ["birds"]
    other.add(embedding("fish", seed=2))
    assert [n.name for n in one.nearest(embedding("copy", seed=2), 2)] == ["fish", "birds"]
    other.add(embedding("fish", seed=3))
    other.remove("birds")
    (found,) = one.nearest(embedding("copy", seed=2), 2)
    np.testing.assert_array_equal(found.embedding.fisher, embedding(seed=3).fisher)


def test_verify_finds_flipped_bytes_in_embeddings_adapters_and_trials(tmp_path):
    model = adapters.attach(timm.create_model("task2vec_vit_patch4_32"), AdapterConfig("bitfit"), 3)
    adapters.save(model, tmp_path / "tuned")
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding("birds"), trials=[trial()], adapter=tmp_path / "tuned")
    store.add(embedding("fish", seed=1))
    assert store.verify() == []
    database = sqlite3.connect(tmp_path / "tasks.db")
    (fisher,) = database.execute("select fisher from embeddings where task_id = 2").fetchone()
    database.execute("update embeddings set fisher = ? where task_id = 2", (b"\0\0\0\0" + fisher[4:],))
    database.execute("update trials set config = replace(config, 'epochs\": 20', 'epochs\": 21')")
    database.commit()
    kept = next((tmp_path / "tasks.db.adapters").iterdir()) / "adapter.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(bytes(content))
    problems = "\n".join(store.verify())
    assert "the stored embedding of 'fish' is damaged (its checksum differs)" in problems
    assert "trial 1 of 'birds' is damaged (the digest of its config differs); remove it and run it again" in problems
    assert "the adapter of 'birds' differs from what was stored; add it again" in problems
    assert len(store.verify()) == 3
    with pytest.raises(StoreError, match="stored task 'birds' is damaged"):
        list(store.tasks())


@pytest.mark.parametrize(
    ("column", "stored", "read"),
    [
        ("num_images", 0, 1),
        ("seconds", -1.5, 0.0),
        ("seed", -1, 2**63 - 1),
        ("parameters", -3, 0),
        ("parameters", 2.5, 2),
        ("curve", "[[NaN, 1.0]]", ()),
        ("curve", "[[0.5, 1.0], [0.5, -1.0]]", ()),
    ],
)
def test_a_trial_that_earlier_versions_stored_and_cannot_be_does_not_lose_the_others(tmp_path, column, stored, read):
    store, expected = TaskStore(tmp_path / "tasks.db"), dataclasses.replace(trial(), **{column: read})
    store.add(embedding("birds"), trials=[trial(), trial(seed=1)])
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as database:
        database.execute(f"update trials set {column} = ? where seed = 0", (stored,))
        database.commit()
    assert store.verify() == []
    assert store.task("birds").trials == (expected, trial(seed=1))
    imported, merged = TaskStore(), TaskStore()
    export_store(store, tmp_path / "all.zip")
    import_archive(imported, tmp_path / "all.zip")
    merge_stores(merged, store)
    assert imported.task("birds").trials == merged.task("birds").trials == (expected, trial(seed=1))


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("score", 1.5),
        ("validation", -0.5),
        ("curve", "[[0.5]]"),
        ("curve", "[0.5]"),
        ("seconds", "soon"),
        ("parameters", float("inf")),
    ],
)
def test_verify_finds_trials_that_cannot_be_mended(tmp_path, column, stored):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding("birds"), trials=[trial()])
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as database:
        database.execute(f"update trials set {column} = ?", (stored,))
        database.commit()
    (problem,) = store.verify()
    assert problem.startswith("trial 1 of 'birds' is damaged (")


def test_verify_finds_damaged_facts(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    name = BackboneId("vit", "", "f" * 32)
    facts = BackboneFacts(name, 20, 2, 0.5, (0.4, 0.5, 0.6), (0.4, 0.4, 0.4, 0.5), 0.1, 0.2)
    with pytest.raises(ValueError, match="is no backbone's fingerprint"):
        dataclasses.replace(facts, backbone=BackboneId("vit", "", "f" * 33))
    store.add(embedding("birds"), facts=[facts])
    assert store.verify() == []
    database = sqlite3.connect(tmp_path / "tasks.db")
    database.execute("update facts set content = replace(content, '0.6', '6')")
    database.commit()
    (problem,) = store.verify()
    assert problem.startswith("facts 1 of 'birds' are damaged (not the facts of a task: an accuracy")
    with pytest.raises(StoreError, match="stored task 'birds' is damaged"):
        store.task("birds")


def test_tags_are_told_apart_by_small_and_capital_letters(store):
    store.add(embedding("birds"), tags=["Medical"])
    assert [task.name for task in store.tasks(TaskFilter(tags=("Medical",)))] == ["birds"]
    assert list(store.tasks(TaskFilter(tags=("medical",)))) == []


def test_any_name_of_a_file_is_a_store_of_that_name(tmp_path):
    TaskStore(tmp_path / "tasks?v=1#2 %41.db").add(embedding("birds"))
    assert [path.name for path in tmp_path.glob("*.db")] == ["tasks?v=1#2 %41.db"]
    assert "birds" in TaskStore(tmp_path / "tasks?v=1#2 %41.db")


def test_equal_adapters_are_kept_once_damaged_ones_replaced_and_unused_ones_swept(tmp_path):
    model = adapters.attach(timm.create_model("task2vec_vit_patch4_32"), AdapterConfig("bitfit"), 3)
    adapters.save(model, tmp_path / "tuned")
    store, kept = TaskStore(tmp_path / "tasks.db"), tmp_path / "tasks.db.adapters"
    for name in ("birds", "fish"):
        store.add(embedding(name), adapter=tmp_path / "tuned")
    assert len(list(kept.iterdir())) == 1
    (store.task("fish").adapter / "adapter.safetensors").write_bytes(b"damaged")
    store.add(embedding("fish"), adapter=tmp_path / "tuned")
    assert store.verify() == []
    store.remove("birds")
    (kept / "killed.partial").mkdir()
    assert store.vacuum() == 0  # a writer may still be at it
    for path in kept.iterdir():
        os.utime(path, (0, 0))
    assert store.vacuum() == 2  # the damaged copy and what a killed writer left
    store.remove("fish")
    assert store.vacuum() == 1
    assert list(kept.iterdir()) == []


WRITER = """
import sys
from selection import TaskStore
from tests.selection.test_store import embedding, trial
store = TaskStore(sys.argv[1], files=sys.argv[2])
for i in range(int(sys.argv[4])):
    store.add(embedding(f"{sys.argv[3]} {i}", seed=i), trials=[trial(seed=i)])
    store.add(embedding("shared", seed=0), trials=[trial(seed=1000 * int(sys.argv[3]) + i)])
"""


def test_processes_that_write_at_once_lose_nothing(store, tmp_path):
    if store.location == "memory":
        pytest.skip("a store in memory belongs to one process")
    files, count, each = str(tmp_path / "files"), 2, 15
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, store.location, files, str(n), str(each)], cwd=Path.cwd())
        for n in range(count)
    ]
    assert [writer.wait(timeout=300) for writer in writers] == [0] * count
    assert len(store) == count * each + 1
    assert len(store.task("shared").trials) == count * each
    assert len({t.seed for t in store.task("shared").trials}) == count * each
    assert store.verify() == []


def test_a_writer_killed_at_any_moment_loses_nothing_it_was_told_is_stored(tmp_path):
    shared = '    store.add(embedding("shared"'
    code = WRITER.replace(shared, f"    print(i, flush=True)\n{shared}")
    arguments = [sys.executable, "-c", code, str(tmp_path / "tasks.db"), str(tmp_path / "files"), "1", "100000"]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    acknowledged = [int(writer.stdout.readline()) for _ in range(7)]
    writer.kill()
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    store = TaskStore(tmp_path / "tasks.db")
    assert store.verify() == []
    for i in acknowledged:
        assert store.task(f"1 {i}").trials == (trial(seed=i),)


@pytest.mark.parametrize("size", [0, 100, 4096, 9000])
def test_a_truncated_database_is_said_to_be_one(size, tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add_many(embedding(f"task {i}", seed=i) for i in range(50))
    store.close()
    content = (tmp_path / "tasks.db").read_bytes()
    (tmp_path / "tasks.db").write_bytes(content[:size])
    if size == 0:  # an empty file is a new store
        assert len(TaskStore(tmp_path / "tasks.db")) == 0
        return
    with pytest.raises(StoreError, match=r"tasks\.db (cannot be opened|could not be read)"):
        TaskStore(tmp_path / "tasks.db").embeddings()


def test_a_directory_that_cannot_be_written_is_named():
    with pytest.raises(StoreError, match=r"/proc/tasks\.db cannot be opened as a task store"):
        TaskStore("/proc/tasks.db")


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
    assert len(store.embeddings("a" * 32)) == 1


def test_a_damaged_embedding_is_named(tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding())
    connection = sqlite3.connect(tmp_path / "tasks.db")
    connection.execute("update embeddings set tensors = x'00ff'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="the stored embedding of 'birds' is damaged"):
        store.embeddings("a" * 32)


NAMES = st.sampled_from(["ant", "bee", "cat", "Dög", "e/f", "..", "'; drop table tasks; --"])


ACTIONS = ["add", "update", "remove", "trial", "export and import", "merge"]


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), NAMES, st.integers(0, 3)), max_size=25))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_changes_equals_a_plain_dictionary(steps):
    store, expected = TaskStore(), {}
    for action, name, number in steps:
        if action == "add" or (action == "update" and name in expected):
            store.add(embedding(name, seed=number))
            expected[name] = (number, expected.get(name, (0, {}))[1])
        elif action == "export and import":
            with tempfile.TemporaryDirectory() as folder:
                export_store(store, Path(folder) / "all.zip")
                store = TaskStore()
                import_archive(store, Path(folder) / "all.zip")
        elif action == "merge":  # what is there stays, what is new comes
            other = TaskStore()
            other.add(embedding(name, seed=number), trials=[trial(number / 10, seed=2)])
            merge_stores(store, other)
            seed, trials = expected.get(name, (number, {}))
            expected[name] = (seed, {2: number / 10} | trials)
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
        stored = next(e for e in store.embeddings("a" * 32) if e.task == name)
        np.testing.assert_array_equal(stored.fisher, embedding(seed=seed).fisher)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": -5.0}, "seconds=-5.0 is not a time"),
        ({"seconds": float("inf")}, "seconds=inf is not a time"),
        ({"parameters": -3}, "parameters=-3 must be a whole number from 0"),
        ({"parameters": 2.5}, "parameters=2.5 must be a whole number from 0"),
        ({"parameters": 2**63}, "parameters=9223372036854775808 must be a whole number from 0 to 9223372036854775807"),
        ({"num_images": 0}, "num_images=0 must be a whole number from 1"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"seed": 2**63}, "seed=9223372036854775808 must be"),
        ({"curve": ((0.5, 1.0), (2.0, 1.0))}, "curve has (2.0, 1.0) for epoch 1"),
        ({"curve": ((float("nan"), 1.0),)}, "curve has (nan, 1.0) for epoch 0"),
        ({"curve": ((0.5, -1.0),)}, "curve has (0.5, -1.0) for epoch 0"),
        ({"curve": (0.5,)}, "curve has 0.5 for epoch 0, which is not an accuracy in [0, 1] and the seconds it took"),
        ({"curve": ((None, 1.0),)}, "curve has (None, 1.0) for epoch 0"),
        ({"curve": ("ab",)}, "curve has ab for epoch 0"),
        ({"seconds": None}, "seconds=None is not a time"),
        ({"validation": "good"}, "validation=good is not an accuracy"),
        ({"parameters": float("inf")}, "parameters=inf must be a whole number"),
        ({"environment": "\ud800"}, "is no backbone or environment"),
        ({"backbone": BackboneId("vit\ud800")}, "is no backbone or environment"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(trial(), **changes)


def test_whole_numbers_of_a_trial_may_come_as_floats_or_numpys():
    found = dataclasses.replace(trial(), parameters=2.0, seed=np.int64(3), num_images=np.float64(4))
    assert (repr(found.parameters), repr(found.seed), repr(found.num_images)) == ("2", "3", "4")
    assert Trial.from_line(found.to_line("birds")) == ("birds", found)


def test_the_largest_whole_numbers_of_a_trial_come_back(store):
    largest = trial(seed=2**63 - 1, parameters=2**63 - 1)
    store.add(embedding(), trials=[largest])
    assert store.task("birds").trials == (largest,)


def test_a_score_that_was_not_measured_is_none_and_comes_back(store):
    unmeasured = trial(None, curve=((0.25, 1.5), (0.5, 1.25)))
    store.add(embedding(), trials=[unmeasured])
    store.add(embedding(), trials=[unmeasured])
    assert store.task("birds").trials == (unmeasured,)
    for wrong in (float("nan"), 1.5, -0.1):
        with pytest.raises(ValueError, match="is not an accuracy"):
            trial(wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "m/../../../victim"},
        {"method": "guess"},
        {"probe": "../" * 10 + "aa"},
        {"probe": "A" * 32},
        {"task": "a\nb"},
        {"classes": ("a", "b\x00")},
        {"images": "../victim"},
    ],
)
def test_an_embedding_of_a_strange_name_is_refused(changes):
    with pytest.raises(EmbeddingError):
        dataclasses.replace(embedding(), **changes)


def test_no_stored_text_chooses_a_path(tmp_path):
    """Whatever a database says of an embedding or an adapter, nothing outside the store's own folders is touched."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    store = TaskStore(tmp_path / "tasks.db", exact_up_to=0)
    store.add(embedding())
    with sqlite3.connect(tmp_path / "tasks.db") as database:
        database.execute("UPDATE embeddings SET method = 'm/../../../victim'")
        database.execute("UPDATE tasks SET adapter = '../victim'")
    target = embedding("new", seed=1)
    object.__setattr__(target, "method", "m/../../../victim")  # no constructor makes such a one
    with contextlib.suppress(StoreError):
        store.nearest(target, 1)
    assert any("digest" in problem for problem in store.verify())
    with pytest.raises(StoreError, match="is no adapter's digest"):
        store.task("birds")
    store.vacuum()
    assert (victim / "precious").read_text() == "kept"
    assert all("victim" not in str(path) for path in (tmp_path / "tasks.db.index").rglob("*"))


def test_four_threads_open_the_library_at_once():
    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(lambda _: len(load_library()), range(4)))
    assert len(set(lengths)) == 1


def test_four_threads_use_one_store_in_memory():
    store = TaskStore()
    for i in range(20):
        store.add(embedding(f"task {i}", seed=i), trials=[trial(seed=i)])

    def use(number):
        store.add(embedding(f"new {number}", seed=number), trials=[trial(seed=number)])
        found = store.nearest(embedding("target", seed=number % 20), 3)
        return found[0].distance, len(list(store.tasks(TaskFilter(with_trials=True)))) >= 20

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(use, range(100, 160)))
    assert all(complete for _, complete in results)
    assert len(store) == 80


def test_trials_of_several_tasks_are_stored_together_or_not_at_all_and_each_once(store):
    store.add(embedding("birds"))
    store.add(embedding("cats", seed=1))
    with pytest.raises(StoreError, match="no task 'dogs'"):
        store.add_trials_of([("birds", trial()), ("dogs", trial())])
    assert store.task("birds").trials == ()
    store.add_trials_of([("birds", trial(0.1)), ("cats", trial()), ("birds", trial(0.2)), ("birds", trial(seed=1))])
    store.add_trials("birds", [trial(0.3)])
    assert store.task("birds").trials == (trial(0.3), trial(seed=1))
    assert store.task("cats").trials == (trial(),)


def test_a_database_of_another_kind_is_refused():
    with pytest.raises(StoreError, match="mysql is no kind of store"):
        TaskStore("mysql+mysqldb://user@server/tasks")


SQLITE_TRIALS_6 = """
    CREATE TABLE trials_6 (id INTEGER NOT NULL, task_id INTEGER NOT NULL, config VARCHAR(2000) NOT NULL,
        backbone VARCHAR(200) NOT NULL, backbone_fingerprint VARCHAR(32) NOT NULL, score FLOAT,
        validation FLOAT NOT NULL, parameters INTEGER NOT NULL, seconds FLOAT NOT NULL, seed INTEGER NOT NULL,
        num_images INTEGER NOT NULL, environment TEXT DEFAULT '' NOT NULL, curve TEXT DEFAULT '[]' NOT NULL,
        PRIMARY KEY (id), UNIQUE (task_id, backbone_fingerprint, config, seed, num_images),
        FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE);
    INSERT INTO trials_6 SELECT id, task_id, config, backbone, backbone_fingerprint, score, validation, parameters,
        seconds, seed, num_images, environment, curve FROM trials;
    DROP TABLE trials;
    ALTER TABLE trials_6 RENAME TO trials;
    CREATE INDEX ix_trials_backbone ON trials (backbone)
"""
POSTGRES_TRIALS_6 = """
    ALTER TABLE trials DROP COLUMN config_digest;
    ALTER TABLE trials ALTER COLUMN config TYPE VARCHAR(2000);
    ALTER TABLE trials ADD UNIQUE (task_id, backbone_fingerprint, config, seed, num_images);
    ALTER TABLE embeddings ALTER COLUMN method TYPE VARCHAR(32);
    ALTER TABLE trials ALTER COLUMN seed TYPE INTEGER, ALTER COLUMN parameters TYPE INTEGER,
                       ALTER COLUMN num_images TYPE INTEGER
"""


def back_to_schema_6(connection):
    """Take back what schemas 7 and 8 changed; neither the key of then nor its columns may survive by chance."""
    statements = SQLITE_TRIALS_6 if connection.dialect.name == "sqlite" else POSTGRES_TRIALS_6
    for statement in statements.split(";"):
        connection.execute(sql.text(statement))
    connection.execute(sql.text("UPDATE schema SET version = 6"))


def as_database(store):
    """An engine for what a store that is not in memory lies in."""
    if store.location == "memory":
        pytest.skip("a store in memory is never old")
    return sql.create_engine(store.location if "://" in store.location else f"sqlite:///{store.location}")


def _taken(kind):
    """How many characters a column takes, and whether numbers of 64 bits."""
    return getattr(kind, "length", None), isinstance(kind, sql.BigInteger)


def tables_of(engine):
    """For each table its columns, with what they take, its unique keys, indexes and parents."""
    found = sql.inspect(engine)
    return {
        name: (
            {(c["name"], _taken(c["type"]), c["nullable"]) for c in found.get_columns(name)},
            {(c["name"], *c["column_names"]) for c in found.get_unique_constraints(name)},
            {i["name"] for i in found.get_indexes(name)},
            [(k["referred_table"], k["options"]) for k in found.get_foreign_keys(name)],
        )
        for name in found.get_table_names()
        if name != "alembic_version"
    }


def test_a_store_whose_trials_have_no_digests_yet_keeps_every_trial(store):
    """Schema 6: configs of at most 2,000 characters, themselves part of the key."""
    engine = as_database(store)
    many = [trial(0.25, seed=i) for i in range(1200)]  # more than are migrated at once
    store.add(embedding(), trials=[*many, trial(0.5, method="lora", curve=((0.5, 1.0),), environment="here")])
    store.add(embedding("fish", seed=1), trials=[trial(0.75)], tags=["wet"])
    before = list(store.tasks())
    store.close()
    new = tables_of(engine)
    with engine.begin() as connection:
        back_to_schema_6(connection)
    assert tables_of(engine) != new
    again = TaskStore(store.location, files=None if "://" in store.location else f"{store.location}.files")
    assert list(again.tasks()) == before
    assert again.verify() == []
    assert tables_of(engine) == new
    again.add_trials("birds", [dataclasses.replace(many[0], score=1.0)])  # the same trial, stored in its place
    again.add_trials("fish", [dataclasses.replace(trial(), config=long_config(), seed=2**40)])
    assert again.task("birds").trials[0] == dataclasses.replace(many[0], score=1.0)
    assert len(again.task("birds").trials) == 1201
    assert again.task("fish").trials[1].config == long_config()
    again.remove("birds")
    assert again.verify() == []
    with engine.connect() as connection:
        assert connection.scalar(sql.text("SELECT count(*) FROM trials")) == 2
    again.close()
    engine.dispose()


def test_a_store_of_version_0_1_opens_and_means_what_it_meant(store):
    """Schema 3: scores that must be there, no curves, the frame of pixel prompts around a shrunken image."""
    engine = as_database(store)
    store.add(embedding(), trials=[trial(0.5, method="pixel_prompt"), trial(0.25, seed=1)])
    store.close()
    old_config = {"method": "pixel_prompt", "frame": 0.04, "learning_rate": 0.01, "weight_decay": 1e-4, "epochs": 20}
    with engine.begin() as connection:
        back_to_schema_6(connection)
        connection.execute(sql.text("ALTER TABLE trials DROP COLUMN curve"))
        connection.execute(sql.text("DROP TABLE facts"))
        connection.execute(sql.text("DROP TABLE thumbnails"))
        if engine.dialect.name == "postgresql":
            connection.execute(sql.text("ALTER TABLE trials ALTER COLUMN score SET NOT NULL"))
        connection.execute(sql.text("UPDATE schema SET version = 3"))
        connection.execute(
            sql.text("UPDATE trials SET config = :config, backbone_fingerprint = :fingerprint WHERE seed = 0"),
            {"config": json.dumps(old_config), "fingerprint": "a7bfaa686a2b2bb6aaaa3c6753005942"},
        )
    engine.dispose()
    again = TaskStore(store.location, files=None if "://" in store.location else f"{store.location}.files")
    prompt, other = sorted(again.task("birds").trials, key=lambda t: t.seed)
    expected = {"frame": 0.04, "resized": True, "learning_rate": 0.01, "epochs": 20, "batch_size": 64}
    assert prompt.config == AdapterConfig("pixel_prompt", **expected)
    bundled = BackboneId.of_model(timm.create_model("task2vec_vit_patch4_32", pretrained=True))
    assert prompt.backbone.fingerprint == bundled.fingerprint
    assert other == trial(0.25, seed=1)
    again.add_trials("birds", [trial(None, seed=2, curve=((0.5, 1.0),))])
    assert len(again.task("birds").trials) == 3
    assert again.verify() == []
    again.close()
