"""Exporting, importing and merging stores, with archives from friends and from strangers."""

import contextlib
import dataclasses
import hashlib
import io
import json
import pickle
import sqlite3
import stat
import unicodedata
import zipfile

import numpy as np
import pytest
import timm
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

import adapters
from adapters import AdapterConfig
from selection import ImportReport, StoreError, TaskStore, export_store, import_archive, merge_stores
from task2vec.embedding import embedding_parts
from tests.selection.test_store import embedding, pictured, trial


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    adapters.save(adapters.attach(timm.create_model("task2vec_vit_patch4_32"), AdapterConfig("bitfit"), 3), folder)
    return folder


@pytest.fixture
def filled(store, tuned):
    store.add(embedding("birds"), trials=[trial(), trial(0.7, seed=1)], tags=["wild", "small"], source="garden")
    store.add(embedding("birds", seed=5, method="exact"))
    store.add(pictured("fish", seed=2), adapter=tuned)
    return store


def contents(store):
    tasks = [dataclasses.replace(task, adapter=task.adapter and task.adapter.name) for task in store.tasks()]
    pictures = [store.thumbnails(task.name) for task in tasks]
    return tasks, pictures, [(e.task, e.probe, e.method, e.fisher.tobytes()) for e in store.embeddings()]


def test_what_is_exported_is_imported_whole(filled, tmp_path):
    export_store(filled, tmp_path / "all.zip")
    other = TaskStore(tmp_path / "other.db")
    report = import_archive(other, tmp_path / "all.zip")
    assert (report.added, report.extended, report.conflicts) == (("birds", "fish"), (), ())
    assert contents(other) == contents(filled)
    assert other.verify() == []
    assert adapters.read_metadata(other.task("fish").adapter)["config"]["method"] == "bitfit"
    again = import_archive(other, tmp_path / "all.zip")
    assert (again.added, again.extended, again.conflicts) == ((), (), ())
    assert contents(other) == contents(filled)


def test_merging_keeps_both_sides_and_names_what_contradicts(filled, tmp_path):
    other = TaskStore(tmp_path / "other.db")
    other.add(embedding("birds", seed=9), trials=[trial(0.9, seed=1), trial(0.4, seed=2)], tags=["blue"], source="zoo")
    other.add(pictured("cats", seed=3))
    other.add(pictured("fish", seed=4))
    report = merge_stores(filled, other)
    assert report.added == ("cats",)
    assert report.extended == ("birds",)
    assert len(report.conflicts) == 3
    assert "ssf with seed 1 at 0.700 here and 0.900 there" in report.conflicts[0]
    assert "'birds' has another montecarlo embedding under probe probe there" in report.conflicts[1]
    assert filled.thumbnails("cats") == other.thumbnails("cats")
    assert filled.thumbnails("fish") == pictured("fish", seed=2).thumbnails
    merged = filled.task("birds")
    assert {t.seed: t.score for t in merged.trials} == {0: 0.5, 1: 0.7, 2: 0.4}
    assert (merged.tags, merged.source) == (("blue", "small", "wild"), "garden")
    kept = filled.embeddings(name="birds", method="montecarlo")[0]
    np.testing.assert_array_equal(kept.fisher, embedding("birds").fisher)


def test_another_embedding_beside_what_a_task_has_leaves_its_number_of_images(filled, tmp_path):
    other = TaskStore(tmp_path / "other.db")
    other.add(dataclasses.replace(embedding("birds", method="empirical", seed=8), num_samples=6))
    before = filled.task("birds").num_images
    assert merge_stores(filled, other).extended == ("birds",)
    merge_stores(filled, other)
    filled.add_many([dataclasses.replace(embedding("birds", method="hutchinson", seed=8), num_samples=7)])
    assert filled.task("birds").num_images == before != 6
    filled.add(dataclasses.replace(embedding("birds", method="empirical", seed=8), num_samples=6))
    assert filled.task("birds").num_images == before
    filled.add(dataclasses.replace(embedding("birds", seed=8), num_samples=9))
    assert filled.task("birds").num_images == 9


def test_an_archive_is_written_over_neither_its_store_nor_something_else(filled, tuned, tmp_path, monkeypatch):
    store = TaskStore(tmp_path / "own.db")
    merge_stores(store, filled)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.db").symlink_to(tmp_path / "own.db")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "own.db")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as images:
        images.writestr("birds/1.png", b"")
    monkeypatch.chdir(tmp_path)
    adapter = store.task("fish").adapter / "adapter.json"
    own = ["own.db", tmp_path / "own.db", "folder/../own.db", "folder/link.db", "hard.db", "own.db-wal", "own.db-shm"]
    before = contents(store)
    for opened in (store, TaskStore("sqlite:///folder/link.db", files=tmp_path / "own.db.adapters")):
        for place in (*own, "own.db-journal", adapter):
            with pytest.raises(StoreError, match="belongs to the store itself, which would be lost"):
                export_store(opened, place)
    for other in ("images.zip", adapter.parent / "adapter.safetensors"):
        with pytest.raises(StoreError, match="is no store's archive; it would be lost"):
            export_store(filled, other)
    with pytest.raises(StoreError, match=r"own\.db is not a store's archive"):
        import_archive(store, "own.db")
    for same in (store, TaskStore("own.db"), TaskStore("folder/link.db", files="own.db.adapters")):
        assert merge_stores(store, same) == ImportReport((), (), ())
        assert contents(store) == contents(same) == before
    assert store.verify() == []
    for _ in range(2):
        export_store(store, "all.zip")
    assert contents(store) == before


def test_classes_whose_accents_were_stored_decomposed_are_the_same_classes(tmp_path):
    old, new = (
        dataclasses.replace(embedding("birds"), classes=(unicodedata.normalize(form, "été"), "zoo"))
        for form in ("NFD", "NFC")
    )
    store, other = TaskStore(), TaskStore()
    store.add(old)
    other.add(new, trials=[trial(0.5)])
    store.check_classes("birds", new.classes)
    assert merge_stores(store, other).conflicts == ()
    assert len(store.task("birds").trials) == 1


@pytest.mark.parametrize(
    "words", [{"tags": "medical"}, {"tags": [1]}, {"tags": ["a\nb"]}, {"source": "Kaggle\tv2"}, {"source": "\udc80"}]
)
def test_tags_and_sources_that_no_archive_could_hold_are_refused_and_nothing_is_stored(words):
    store = TaskStore()
    with pytest.raises(StoreError, match=r"must be several words|is no tag or source"):
        store.add(embedding("birds"), **words)
    assert len(store) == 0


def test_a_source_that_an_older_version_let_through_is_exported_and_merged_with_spaces(tmp_path):
    TaskStore(tmp_path / "tasks.db").add(embedding("birds"))
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as database:
        database.execute("UPDATE tasks SET source = 'Kaggle' || char(9) || 'v2' WHERE name = 'birds'")
        database.commit()
    store, imported, merged = TaskStore(tmp_path / "tasks.db"), TaskStore(), TaskStore()
    export_store(store, tmp_path / "all.zip")
    import_archive(imported, tmp_path / "all.zip")
    merge_stores(merged, store)
    assert imported.task("birds").source == merged.task("birds").source == "Kaggle v2"


def test_a_task_of_the_same_name_with_other_classes_is_another_one(filled, tmp_path):
    other, before = TaskStore(tmp_path / "other.db"), contents(filled)
    other.add(dataclasses.replace(embedding("birds", method="exact"), classes=("x", "y")), trials=[trial(0.99, seed=7)])
    other.add(embedding("cats", seed=3))
    report = merge_stores(filled, other)
    assert (report.added, report.extended) == (("cats",), ())
    assert report.conflicts == ("'birds' has other classes there; rename one of the two tasks",)
    filled.remove("cats")
    assert contents(filled) == before


def rewritten(archive, path, change):
    """A copy of an archive with some entries changed, its manifest made to agree."""
    with zipfile.ZipFile(archive) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    manifest = json.loads(entries.pop("manifest.json"))
    change(entries)
    manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries.items():
            target.writestr(name, content)
        target.writestr("manifest.json", json.dumps(manifest))
    return path


def of(number):
    return f"embeddings/{number}.safetensors"


def with_fisher(value):
    def change(entries):
        tensors, facts = embedding_parts(embedding("birds"))
        fisher = tensors["fisher"].copy()
        fisher[3] = value
        entries[of(0)] = to_bytes(tensors | {"fisher": fisher}, metadata={"task2vec": json.dumps(facts)})

    return change


def with_name(name):
    def change(entries):
        lines = [json.loads(line) for line in entries["tasks.jsonl"].splitlines()]
        entries["tasks.jsonl"] = "\n".join(json.dumps(line | {"name": name}) for line in lines).encode()

    return change


def with_trials(**changes):
    def change(entries):
        lines = [json.loads(line) for line in entries["tasks.jsonl"].splitlines()]
        for line in lines:
            line["trials"] = [values | changes for values in line["trials"]]
        entries["tasks.jsonl"] = "\n".join(map(json.dumps, lines)).encode()

    return change


def picture(number):
    return f"thumbnails/{number}.webp"


def with_labels(labels):
    def change(entries):
        lines = [json.loads(line) for line in entries["tasks.jsonl"].splitlines()]
        entries["tasks.jsonl"] = "\n".join(json.dumps(line | {"thumbnails": labels}) for line in lines).encode()

    return change


def put(name, content):
    return lambda entries: entries.update({name: content})


class Malice:
    def __reduce__(self):
        return print, ("owned",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("../../etc/owned", b"x"), r"holds '\.\./\.\./etc/owned', which no store's archive has"),
        (put("/etc/owned", b"x"), "holds '/etc/owned'"),
        (put("adapters/" + "a" * 32 + "/../../owned", b"x"), "which no store's archive has"),
        (put("training.pt", pickle.dumps(Malice())), "holds 'training.pt'"),
        (put(of(0), pickle.dumps(Malice())), "line 1 of tasks.jsonl .* is no task"),
        (put(of(7), b"\0" * 200_000_000), r"unpacks embeddings/7\.safetensors to 200,000,000 bytes, too many"),
        (with_fisher(float("nan")), "is no task .*has nan at entry 3"),
        (with_fisher(-1.0), r"is no task .*has -1\.0 at entry 3"),
        (put(picture(0), b"<svg onload=alert(1)>"), "is no task .*thumbnail 0 is not a plain WebP picture alone"),
        (put(picture(1), bytes(40_000)), r"unpacks thumbnails/1\.webp to 40,000 bytes, too many"),
        (put("thumbnails/owned.webp", b"x"), "holds 'thumbnails/owned.webp'"),
        (put("thumbnails/0.svg", b"x"), r"holds 'thumbnails/0\.svg'"),
        (lambda entries: entries.pop(picture(2)), r"lacks thumbnails/2\.webp"),
        (with_labels([[0, "a"]] * 100_000), "there are 17 thumbnails; a task has 16 at most"),
        (with_labels([["../owned", "a"]]), "is no task .*invalid literal"),
        (with_labels([[0, "a\0b"]]), "is no name, source, tag or label"),
        (with_labels(7), "is no task"),
        (with_name("x" * 1_000_000), "its name has 1000000 characters, not 1 to 200"),
        (with_name(""), "its name has 0 characters, not 1 to 200"),
        (with_trials(backbone="x" * 201), "the name of a backbone must have at most 200 characters, not 201"),
        (with_trials(backbone_fingerprint="f" * 33), "is no backbone's fingerprint"),
        (put("tasks.jsonl", b"[1, 2]"), "line 1 of tasks.jsonl"),
        (put("tasks.jsonl", b"\xff\xfe"), "line 1 of tasks.jsonl"),
        (lambda entries: entries.pop(of(1)), r"lacks embeddings/1\.safetensors"),
    ],
)
def test_hostile_and_damaged_archives_are_refused_and_change_nothing(filled, tmp_path, change, message, capsys):
    export_store(filled, tmp_path / "all.zip")
    bad = rewritten(tmp_path / "all.zip", tmp_path / "bad.zip", change)
    other = TaskStore(tmp_path / "other.db")
    with pytest.raises(StoreError, match=message):
        import_archive(other, bad)
    assert len(other) == 0
    assert "owned" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_duplicates_and_flipped_bytes_are_refused(filled, tmp_path):
    export_store(filled, tmp_path / "all.zip")
    link = zipfile.ZipInfo(of(9))
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name, entry in (("link", link), ("twice", of(0))):
        (tmp_path / f"{name}.zip").write_bytes((tmp_path / "all.zip").read_bytes())
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "a") as archive:
            archive.writestr(entry, "/etc/passwd")
        with pytest.raises(StoreError, match="which no store's archive has; nothing was read"):
            import_archive(TaskStore(), tmp_path / f"{name}.zip")

    def flip(entries):
        content = bytearray(entries[of(0)])
        content[-3] ^= 1
        entries[of(0)] = bytes(content)

    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        manifest = archive.read("manifest.json")
    flipped = rewritten(tmp_path / "all.zip", tmp_path / "flipped.zip", flip)
    entries = {}
    with zipfile.ZipFile(flipped) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(flipped, "w") as archive:
        for name, content in (entries | {"manifest.json": manifest}).items():
            archive.writestr(name, content)
    with pytest.raises(StoreError, match=r"has a damaged embeddings/0\.safetensors"):
        import_archive(TaskStore(), flipped)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_files_that_are_no_archive_are_refused(content, tmp_path):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(StoreError, match=r"bad\.zip is not a store's archive"):
        import_archive(TaskStore(), tmp_path / "bad.zip")
    with pytest.raises(StoreError, match="there is no archive at"):
        import_archive(TaskStore(), tmp_path / "nowhere.zip")


def test_a_truncated_archive_is_refused(filled, tmp_path):
    export_store(filled, tmp_path / "all.zip")
    whole = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="is not a store's archive"):
        import_archive(TaskStore(), tmp_path / "half.zip")


def test_an_archive_of_a_newer_format_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"format_version": 99, "files": {}}))
    (tmp_path / "new.zip").write_bytes(buffer.getvalue())
    with pytest.raises(StoreError, match="format version 99, this package reads 4; upgrade it"):
        import_archive(TaskStore(), tmp_path / "new.zip")


@pytest.mark.parametrize("method", ["m/../../../victim", "..", "unheard_of", "montecarlo\x00"])
def test_an_archive_whose_embedding_names_a_path_is_refused_before_anything_is_written(filled, tmp_path, method):
    """Found by attack: such a name once became a directory of the index, which was then removed."""
    export_store(filled, tmp_path / "all.zip")
    victim = tmp_path / "victim"
    victim.mkdir()

    def rename(entries):
        name = next(n for n in entries if n.startswith("embeddings/"))
        header = json.loads(entries[name][8 : 8 + int.from_bytes(entries[name][:8], "little")])
        facts = json.loads(header["__metadata__"]["task2vec"]) | {"method": method}
        entries[name] = to_bytes(from_bytes(entries[name]), metadata={"task2vec": json.dumps(facts)})

    hostile = rewritten(tmp_path / "all.zip", tmp_path / "hostile.zip", rename)
    store = TaskStore(tmp_path / "mine.db", exact_up_to=0)
    with pytest.raises(StoreError, match="is no estimator here"):
        import_archive(store, hostile)
    assert len(store) == 0
    assert victim.exists()


@pytest.mark.parametrize("field", ["name", "source", "tags"])
def test_an_archive_with_control_characters_in_its_texts_is_refused(filled, tmp_path, field):
    def spoil(entries):
        lines = [json.loads(line) for line in entries["tasks.jsonl"].splitlines()]
        lines[0][field] = ["a\x1b[2J"] if field == "tags" else "a\x1b[2J"
        entries["tasks.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()

    export_store(filled, tmp_path / "all.zip")
    hostile = rewritten(tmp_path / "all.zip", tmp_path / "hostile.zip", spoil)
    with pytest.raises(StoreError, match="is no name"):
        import_archive(TaskStore(), hostile)
