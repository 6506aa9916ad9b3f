"""The command line as a person and a program use it."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.numpy import load_file

import adapters
from adapters import AdapterConfig, BackboneId
from selection import TaskStore
from selection.cli import main
from task2vec import TaskEmbedding
from tests.selection.test_store import trial


def run(*arguments, cwd=None, ok=True):
    """Run the command in this process, which saves loading torch each time; gives status and what was printed."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd or before)
    try:
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["task2vec", *map(str, arguments)]):
            try:
                main()
                status = 0
            except SystemExit as stop:
                status = stop.code or 0
    finally:
        os.chdir(before)
    assert (status == 0) == ok, err.getvalue()
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def as_json(*arguments, cwd=None):
    return json.loads(run(*arguments, "--json", cwd=cwd).stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noise, one brighter than the other."""
    root = tmp_path_factory.mktemp("data") / "spots"
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 160, (24, 20, 3)) + 80 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "spots.safetensors"
    run("embed", folder, "-o", path)
    return path


def test_embed_saves_an_embedding_and_says_what_it_is(folder, tmp_path):
    facts = as_json("embed", folder, cwd=tmp_path)
    loaded = TaskEmbedding.load(tmp_path / "spots.safetensors")
    assert facts["task"] == loaded.task == "spots"
    assert facts["images"] == 40
    assert facts["norm"] == pytest.approx(loaded.norm)


def test_thumbnails_are_kept_where_they_are_asked_for(folder, saved, tmp_path):
    db = tmp_path / "my.db"
    assert as_json("embed", folder, "-o", tmp_path / "seen.safetensors", "--thumbnails")["thumbnails"] == 16
    run("store", "create", db, "--empty")
    assert as_json("store", "add", db, saved)["thumbnails"] == 0
    failed = run("store", "add", db, saved, "--thumbnails", ok=False)
    assert "has no thumbnails; embed the images with --thumbnails" in failed.stderr
    for source, asked in ((folder, ["--thumbnails"]), (tmp_path / "seen.safetensors", [])):
        assert as_json("store", "add", db, source, *asked)["thumbnails"] == 16
        run("atlas", db, "-o", tmp_path / "with.html")
        run("atlas", db, "-o", tmp_path / "without.html", "--no-thumbnails")
        assert [(tmp_path / name).read_text().count("data:image/webp") for name in ("with.html", "without.html")] == [
            16,
            0,
        ]
        assert as_json("store", "forget-thumbnails", db)["thumbnails removed"] == 16


def test_recommend_reads_each_image_once_for_the_probe_and_the_backbone_and_shows_how_far_it_is(folder):
    shown = run("recommend", folder).stderr
    assert shown.count("Decoding images") == 1
    assert shown.count("Measuring the Fisher") == 2
    assert "Looking through the backbone" in shown


def test_distance_prints_a_matrix_and_draws_it(saved, tmp_path):
    found = as_json("distance", saved, saved, "--distance", "cosine", "--plot", tmp_path / "d.png")
    np.testing.assert_allclose(found["matrix"], np.zeros((2, 2)), atol=1e-6)
    assert (tmp_path / "d.png").exists()
    assert "cosine distance" in run("distance", saved, saved, "--distance", "cosine").stdout


def test_embeddings_that_were_made_otherwise_are_compared_with_a_warning_or_not_at_all(folder, saved, tmp_path):
    exact, part = tmp_path / "exact.safetensors", tmp_path / "part.safetensors"
    run("embed", folder, "-o", exact, "--method", "exact")
    run("embed", folder, "-o", part, "--from-layer", "layer3")
    done = run("distance", saved, exact)
    assert "warning: embedding 'spots' was made by montecarlo with l2=1 and 'spots' by exact" in done.stderr
    db = tmp_path / "my.db"
    run("store", "create", db)
    for arguments, message in (
        (["distance", saved, part], "vectors of length 1216 and 1664 have no distance; measure the same layers"),
        (["distance", part, part], "choose another distance, such as cosine"),
        (["nearest", part], "has 1,216 filters, and those in the shipped library have 1,664; measure the same layers"),
        (["recommend", part], "has 1,216 filters, and those in the shipped library have 1,664"),
        (["atlas", "--target", part, "-o", tmp_path / "a.html"], "by the same probe, estimator and layers as spots"),
        (["store", "add", db, part], "they were measured from different layers on and cannot be compared"),
    ):
        failed = run(*arguments, ok=False)
        assert failed.returncode == 2
        assert message in failed.stderr


def test_nearest_and_recommend_take_a_folder_or_an_embedding(folder, saved):
    assert as_json("nearest", folder) == as_json("nearest", saved)
    assert len(as_json("nearest", saved, "-k", "3")["nearest"]) == 3
    recommendation = as_json("recommend", saved)
    assert recommendation["config"] == recommendation["ranking"][0]["config"]
    table = run("recommend", saved).stdout
    assert "Recommended configurations" in table
    assert "Because of these stored tasks" in table


def test_a_table_is_taken_wherever_a_folder_is(folder, tmp_path):
    table = tmp_path / "spots.csv"
    rows = [f"{path},{path.parent.name},{split}\n" for split, part in (("train", slice(0, 30)), ("test", slice(30, 40)))
            for path in sorted(folder.rglob("*.png"), key=lambda path: path.name)[part]]  # fmt: skip
    table.write_text("file,label,split\n" + "".join(rows))
    assert as_json("embed", table, "-o", tmp_path / "e.safetensors")["images"] == 30
    assert as_json("embed", table, "--split", "test", "-o", tmp_path / "e.safetensors")["images"] == 10
    assert as_json("recommend", table)["config"]
    tuned = as_json("tune", table, "--split", "train", "-o", tmp_path / "t", "--method", "bitfit", "--epochs", "1")
    assert tuned["config"]["method"] == "bitfit"


def test_a_table_of_several_labels_an_image_is_read_wherever_one_is_taken(folder, tmp_path):
    table, db, several = tmp_path / "several.csv", tmp_path / "my.db", ("--separator", ";")
    rows = [f"{path},{path.parent.name}{';even' * (int(path.stem) % 2 == 0)}\n" for path in folder.rglob("*.png")]
    table.write_text("file,label\n" + "".join(rows))
    assert "give separator=';'" in run("nearest", table, ok=False).stderr
    assert as_json("nearest", table, *several)["task"] == "several"
    run("store", "create", db, "--empty")
    assert as_json("store", "add", db, table, *several)["classes"] == 3
    run("atlas", db, "-o", tmp_path / "atlas.html", "--target", table, *several)
    run("embed", table, *several, "-o", tmp_path / "e.safetensors")
    for command in ("nearest", "recommend"):
        said = run(command, tmp_path / "e.safetensors", *several, ok=False).stderr
        assert "--separator ; is of a table, but" in said


def test_a_given_method_is_tuned_saved_and_merged(folder, tmp_path):
    facts = as_json("tune", folder, "-o", tmp_path / "out", "--method", "lora", "--rank", "2", "--epochs", "1")
    assert facts["config"]["method"] == "lora"
    written = {p.name for p in (tmp_path / "out").iterdir()}
    adapter = {"adapter.safetensors", "adapter.json", "merged.safetensors"}
    assert written == adapter | {"metrics.jsonl", "training.pt", "result.json", "README.md", "curves.png"}
    merged = as_json("merge", tmp_path / "out", "-o", tmp_path / "again.safetensors")
    assert merged["num_classes"] == 2
    one, other = load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "out" / "merged.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-6)


def test_the_recommendation_is_tuned_where_no_method_is_given(folder, tmp_path):
    facts = as_json("tune", folder, "-o", tmp_path / "out", "--max-params", "20000")
    assert facts["backbone"] == adapters.DEFAULT_BACKBONE
    assert facts["config"] == facts["recommendation"]["config"]
    assert facts["recommendation"]["timed_here"]
    assert facts["parameters"] <= 20_000
    assert adapters.read_metadata(tmp_path / "out")["class_names"] == ["dark", "light"]


def test_a_store_of_another_probe_is_asked_with_that_probe(folder, tmp_path):
    name, db = "task2vec_vit_patch4_32", tmp_path / "my.db"
    run("store", "create", db, "--empty")
    run("store", "add", db, folder, "--probe", name)
    quick = trial(0.9, backbone=BackboneId.of_model(timm.create_model(name, pretrained=True)))
    store = TaskStore(db)
    store.add_trials("spots", [dataclasses.replace(quick, config=AdapterConfig("bitfit", epochs=1))])
    store.close()
    assert "use one of these" in run("tune", folder, "-o", tmp_path / "out", "--store", db, ok=False).stderr
    tuned = as_json("tune", folder, "-o", tmp_path / "out", "--store", db, "--probe", name)
    assert tuned["config"]["method"] == "bitfit"
    said = run("tune", folder, "-o", tmp_path / "out", "--probe", name, "--method", "bitfit", ok=False).stderr
    assert "--probe guide the recommendation" in said


@pytest.mark.slow
def test_several_tries_are_recommended_in_turn_and_the_best_is_kept(folder, tmp_path):
    limits = ("--tries", "2", "--max-params", "9000", "--mergeable-only")
    facts = as_json("tune", folder, "-o", tmp_path / "out", *limits)
    tried = [adapters.read_metadata(tmp_path / "out" / f"try-{n}")["config"] for n in (1, 2)]
    assert tried[0] != tried[1]
    assert facts["config"] in tried
    assert adapters.read_metadata(tmp_path / "out")["config"] == facts["config"]
    assert (tmp_path / "out" / "merged.safetensors").exists()


def test_a_store_is_made_filled_listed_and_emptied(saved, tmp_path):
    db = tmp_path / "my.db"
    assert as_json("store", "create", db)["tasks"] >= 22
    as_json("store", "add", db, saved, "--name", "my spots")
    assert "my spots" in [task["task"] for task in as_json("store", "list", "--store", db)]
    assert as_json("store", "show", "my spots", "--store", db)["images"] == 40
    assert as_json("store", "list", db) == as_json("store", "list", "--store", db)
    assert as_json("store", "show", db, "my spots") == as_json("store", "show", "my spots", "--store", db)
    for twice in (["list", db], ["show", db, "my spots"]):
        assert "are two stores; give one of both" in run("store", *twice, "--store", db, ok=False).stderr
    assert "quote names with spaces" in run("store", "show", db, "my", "spots", ok=False).stderr
    assert as_json("nearest", saved, "--store", db)["nearest"][0]["task"] == "my spots"
    assert as_json("store", "remove", db, "my spots")["removed"] == "my spots"
    assert "has no task 'my spots'" in run("store", "show", "my spots", "--store", db, ok=False).stderr


def test_a_store_behind_a_url_is_made_filled_and_listed(saved, tmp_path, postgres):
    for url in (f"sqlite:///{tmp_path / 'by-url.db'}", postgres.location):
        as_json("store", "create", url, "--empty")
        as_json("store", "add", url, saved, "--name", "my spots", "--tag", "grey", "--origin", "drawn")
        shown = as_json("store", "show", "my spots", "--store", url)
        assert (shown["tags"], shown["source"]) == (["grey"], "drawn")
        assert as_json("store", "export", url, tmp_path / "all.zip")["tasks"] == 1
        assert as_json("store", "verify", url)["problems"] == []


def test_trials_from_a_file_are_stored_and_bad_lines_are_named(saved, tmp_path):
    from tests.selection.test_store import trial

    run("store", "create", tmp_path / "my.db", "--empty")
    (tmp_path / "trials.jsonl").write_text(trial(0.75).to_line("spots"))
    run("store", "add", tmp_path / "my.db", saved, "--trials", tmp_path / "trials.jsonl")
    assert as_json("store", "show", "spots", "--store", tmp_path / "my.db")["trials"][0]["score"] == 0.75
    (tmp_path / "more.jsonl").write_text(trial(None, seed=1).to_line("spots"))  # its score was not measured
    run("store", "add", tmp_path / "my.db", saved, "--trials", tmp_path / "more.jsonl")
    assert "75.0%" in run("store", "list", "--store", tmp_path / "my.db").stdout
    shown = run("store", "show", "spots", "--store", tmp_path / "my.db").stdout
    assert "75.0%" in shown
    assert " - " in shown
    for other, message in (
        (trial(0.8).to_line("y"), "holds trials of 'y', and the task is called 'spots'"),
        (trial(0.8).to_line("spots"), "lines 1 and 2 of"),
        ("{}\n", "line 2 of"),
        ("3\n", "line 2 of"),
        ("\n  \n" + trial(0.8).to_line("spots"), "lines 1 and 4 of"),
        (b"\x89PNG\xff", "mixed.jsonl is no text, and so holds no trials"),
    ):
        content = other if isinstance(other, bytes) else (trial(0.75).to_line("spots") + other).encode()
        (tmp_path / "mixed.jsonl").write_bytes(content)
        failed = run("store", "add", tmp_path / "my.db", saved, "--trials", tmp_path / "mixed.jsonl", ok=False)
        assert message in failed.stderr.replace("\n", " ")
    (tmp_path / "blank.jsonl").write_text("\n" + trial(0.75).to_line("spots") + " \r\n\n")
    run("store", "add", tmp_path / "my.db", saved, "--trials", tmp_path / "blank.jsonl")
    (tmp_path / "trials.jsonl").write_text(trial(0.75).to_line("spots") + "{}\n")
    failed = run("store", "add", tmp_path / "my.db", saved, "--trials", tmp_path / "trials.jsonl", ok=False)
    assert "line 2 of" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "nowhere"], "there is no folder or zip at nowhere"),
        (["embed", "empty"], "no images under empty"),
        (["nearest", "text.safetensors"], "is not a task embedding"),
        (["nearest", "SAVED", "--store", "nowhere.db"], "there is no task store at nowhere.db"),
        (["nearest", "SAVED", "--store", "text.safetensors"], "cannot be opened as a task store"),
        (["nearest", "SAVED", "--distance", "euclid"], "there is no distance 'euclid'"),
        (["recommend", "SAVED", "--backbone", "nonsense"], "timm knows no model 'nonsense'"),
        (
            ["recommend", "SAVED", "--backbone", "vit_tiny_patch16_224.nonsense"],
            "timm knows no model 'vit_tiny_patch16_224.n",
        ),
        (["recommend", "SAVED", "--max-params", "-1"], "no configuration keeps to max_params=-1; the smallest has"),
        (["recommend", "SAVED", "--recommender", "oracle"], "there is no recommender 'oracle'"),
        (["recommend", "SAVED", "--method", "magic"], "there is no method 'magic'"),
        (["trials", "run", "nowhere.toml", "--store", "x.db"], "nowhere.toml is not a grid"),
        (["merge", "empty", "-o", "x"], "no adapter is saved in empty"),
        (["tune", "FOLDER", "-o", "x", "--rank", "3"], "belong to a method"),
        (["tune", "FOLDER", "-o", "x", "--method", "magic"], "there is no method 'magic'"),
        (["store", "create", "text.safetensors"], "is there already"),
        (["store", "import", "text", "text-wal"], "text-wal is called as a file of the store itself"),
        (["store", "import", "text.safetensors", "./text.safetensors"], "is called as a file of the store itself"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(arguments, message, folder, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")
    places = {"SAVED": saved, "FOLDER": folder}
    done = run(*(places.get(a, a) for a in arguments), cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("task2vec: ")
    assert done.stdout == ""


def test_the_installed_command_answers_bad_input_without_a_traceback(tmp_path):
    code = "from selection.cli import main; main()"
    command = [sys.executable, "-c", code, "embed", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "task2vec: there is no folder or zip at nowhere; check the path\n"


@pytest.mark.slow
def test_the_demo_finds_mnist_and_beats_the_linear_probe(tmp_path):
    facts = as_json("demo", cwd=tmp_path)
    assert "mnist" in [near["task"] for near in facts["nearest"]]
    assert facts["accuracy"] > facts["linear_probe_accuracy"]
    if facts["merge"] is not None:
        assert facts["merge"]["largest_difference"] < 1e-5 * max(1, facts["merge"]["largest_output"])
    assert (tmp_path / "task2vec-demo" / "map.png").exists()
    assert (tmp_path / "task2vec-demo" / "adapter" / "adapter.safetensors").exists()
