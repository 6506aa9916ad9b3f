"""The command line's manners: quick help, one sentence for every error, tables that fit, one run a folder."""

import ast
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import SoftFileLock
from PIL import Image
from safetensors.torch import save_file

import selection
from selection import SelectionError, StoreError, TaskStore
from selection.cli.app import COMMANDS
from selection.cli.failures import BAD_INPUT, UNEXPECTED, failure_of
from selection.cli.output import short
from selection.results.lock import NAME, alone_in
from task2vec import TaskEmbedding
from tests.selection.test_cli import folder, run, saved  # noqa: F401  fixtures

MAIN = "from selection.cli import main; main()"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_list_of_commands_loads_neither_torch_nor_timm(arguments):
    code = (
        "import sys\nfrom selection.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'sqlalchemy', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "print('loaded', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_the_summaries_of_commands_are_those_of_the_commands():
    for name, (place, summary) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(f"selection.cli.{module}"), attribute)
        text = found.info.help if hasattr(found, "info") else found.__doc__
        assert " ".join(text.strip().split("\n\n")[0].split()) == summary, name


def test_every_command_explains_itself():
    for name in COMMANDS:
        assert COMMANDS[name][1].rstrip(".").split(",")[0] in " ".join(run(name, "--help").stdout.split()), name


def test_the_public_names_are_those_of_the_stub_and_all_load():
    stub = ast.parse(Path(selection.__file__).with_suffix(".pyi").read_text())
    names = [alias.name for node in stub.body for alias in node.names]
    assert names == selection.__all__
    assert all(getattr(selection, name) is not None for name in names)
    assert set(names) <= set(dir(selection))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = selection.nonsense


def test_names_of_commands_are_completed():
    environment = {"_TASK2VEC_COMPLETE": "complete_bash", "COMP_WORDS": "task2vec store l", "COMP_CWORD": "2"}
    code = "import sys; sys.argv = ['task2vec']; " + MAIN
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**__import__("os").environ, **environment}
    )
    assert done.stdout.strip() == "list"


def _missing_file():
    Path("nowhere/at/all").read_text()


def _no_picture():
    import io

    Image.open(io.BytesIO(b"no picture"))


def _damaged_weights():
    from safetensors.torch import load

    load(b"12345678")


def _bad_url():
    import sqlalchemy

    sqlalchemy.create_engine("nonsense")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (_missing_file, "no such file or directory: nowhere/at/all; check the path"),
        (_no_picture, "cannot identify image file"),
        (_damaged_weights, "a safetensors file is damaged"),
        (_bad_url, "the database did not do it"),
        (lambda: __import__("nonsense_package"), "nonsense_package is not installed; pip install nonsense_package"),
    ],
)
def test_errors_of_the_libraries_below_are_one_sentence(cause, words):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        cause()
    failure = failure_of(caught.value)
    assert failure.sentence.startswith(words)
    assert "\n" not in failure.sentence
    assert failure.status == BAD_INPUT


def test_an_error_that_nobody_thought_of_is_told_from_bad_input():
    failure = failure_of(RuntimeError("first line.\nsecond line"))
    assert failure == ("RuntimeError: first line", UNEXPECTED)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distance", "SAVED", "SAVED", "--plot", "x.docx"], "no picture that can be drawn"),
        (["nearest", "FOLDER", "--device", "cuda:99"], "there is no device cuda:99 here"),
        (["trials", "run", "grid.toml", "--store", "new.db"], "autocast='bf16' is unknown; give auto, none"),
        (["store", "import", "new.db", "nowhere.zip"], "there is no archive at nowhere.zip"),
        (["store", "import", "sqlite:///new.db", "nowhere.zip"], "there is no archive at nowhere.zip"),
        (["store", "add", "sqlite:///new.db", "SAVED"], "there is no task store at sqlite:///new.db"),
        (["nearest", "SAVED", "--store", "mongo://x"], "mongo is no kind of store"),
        (
            ["tune", "FOLDER", "-o", "out", "--backbone", "test_vit", "--checkpoint", "wrong.safetensors"],
            "cannot load weights from",
        ),
        (
            ["recommend", "FOLDER", "--backbone", "test_vit", "--checkpoint", "wrong.safetensors"],
            "cannot load weights from",
        ),
    ],
)
def test_bad_input_costs_no_work_and_leaves_nothing_behind(arguments, words, folder, saved, tmp_path):  # noqa: F811
    (tmp_path / "grid.toml").write_text('folder = "."\nprecision = "bf16"\n[[config]]\nmethod = "ssf"\n')
    save_file({"nonsense": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    before = {path.name for path in tmp_path.iterdir()}
    places = {"SAVED": saved, "FOLDER": folder}
    done = run(*(places.get(a, a) for a in arguments), cwd=tmp_path, ok=False)
    assert words in done.stderr
    assert "Measuring the Fisher" not in done.stderr
    assert done.returncode == BAD_INPUT
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_task_of_other_classes_does_not_take_over_the_trials_of_a_name(saved, tmp_path):  # noqa: F811
    import dataclasses

    store = TaskStore(tmp_path / "tasks.db")
    first = TaskEmbedding.load(saved)
    store.add(first, name="spots")
    store.add(first, name="spots")  # the same task again is no trouble
    other = dataclasses.replace(first, classes=("dark", "green"))
    with pytest.raises(StoreError, match=r"'spots' is stored with 2 classes \(dark, light\).*give another name"):
        store.add(other, name="spots")
    with pytest.raises(StoreError, match="is stored with"):
        store.add_many([dataclasses.replace(other, task="spots")])
    assert store.task("spots").classes == ("dark", "light")
    other.save(tmp_path / "other.safetensors")
    done = run("store", "add", tmp_path / "tasks.db", tmp_path / "other.safetensors", "--name", "spots", ok=False)
    assert "task2vec store remove" in done.stderr


def test_a_folder_of_other_classes_is_refused_before_it_is_embedded(saved, folder, tmp_path):  # noqa: F811
    import dataclasses

    TaskStore(tmp_path / "tasks.db").add(
        dataclasses.replace(TaskEmbedding.load(saved), classes=("dark", "green")), name="spots"
    )
    done = run("store", "add", tmp_path / "tasks.db", folder, ok=False)
    assert "'spots' is stored with 2 classes (dark, green)" in done.stderr
    assert "Decoding" not in done.stderr


def test_a_probe_that_a_store_does_not_know_is_told_with_those_that_it_knows(saved):  # noqa: F811
    import dataclasses

    other = dataclasses.replace(TaskEmbedding.load(saved), probe="0" * 32, probe_name="resnet50")
    words = (
        r"the shipped library has no task embedded with probe resnet50 .* but with task2vec_resnet_32 \(montecarlo\)"
    )
    with pytest.raises(StoreError, match=words + ".*store add STORE FOLDER --probe resnet50"):
        selection.recommend(other, selection.load_library())


def test_tables_are_plain_and_narrow_where_no_terminal_reads_them(saved):  # noqa: F811
    for arguments in (
        ["recommend", saved],
        ["nearest", saved],
        ["store", "list"],
        ["store", "show", "gtsrb"],
        ["doctor"],
        ["embed", "--help"],
    ):
        printed = run(*arguments).stdout
        rows = [line for line in printed.splitlines() if not line.startswith("Tune ")]
        assert max(map(len, rows)) <= 100, arguments
    assert not set(run("recommend", saved).stdout) & set("│┃━─┏┓")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.345678, "12.3"),
        (1234.5, "1,234"),
        (0.012345, "0.0123"),
        (9.9e-7, "9.90e-07"),
        (3e12, "3.00e+12"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert short(value) == text


def test_a_second_run_into_one_folder_is_told_who_is_there(tmp_path):
    with alone_in(tmp_path):
        code = (
            "import sys\nfrom selection.results.lock import alone_in\n"
            "from selection import SelectionError\n"
            "try:\n  with alone_in(sys.argv[1]): print('in')\nexcept SelectionError as error: print(error)"
        )
        told = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True).stdout
    import os

    assert f"is in use by process {os.getpid()} on " in told
    assert not (tmp_path / NAME).exists()


def test_the_folder_of_a_run_that_was_killed_is_taken_over(tmp_path):
    code = (
        "import sys, os\nfrom selection.results.lock import alone_in\n"
        "context = alone_in(sys.argv[1]); context.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == 9
    assert (tmp_path / NAME).exists()
    with alone_in(tmp_path):
        pass


def test_tuning_into_a_folder_in_use_is_refused_before_any_work(folder, tmp_path):  # noqa: F811
    with SoftFileLock(tmp_path / NAME):
        start = time.monotonic()
        for method in ("ssf", None):
            given = () if method is None else ("--method", method)
            done = run("tune", folder, "-o", tmp_path, *given, ok=False)
            assert "is in use by" in done.stderr
            assert "Fisher" not in done.stderr
        assert time.monotonic() - start < 60
    with pytest.raises(SelectionError), SoftFileLock(tmp_path / NAME), alone_in(tmp_path):
        pass


def test_what_the_command_line_says_of_a_result_is_unchanged_for_programs(saved):  # noqa: F811
    assert set(json.loads(run("nearest", saved, "--json").stdout)) == {"task", "nearest"}
