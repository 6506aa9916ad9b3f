"""Grids of trials: what is written down, and what is run of it."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

import adapters
from adapters import AdapterConfig
from selection import Grid, SelectionError, StoreError, TaskStore, export_store, import_archive, run_grid
from selection.evidence.space import choices_of, search_space
from selection.evidence.subtasks import subtasks
from task2vec import Task, TaskError
from tests.selection.test_cli import as_json, run

CLASSES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks of eight grey levels each, with train and test splits."""
    root, generator = tmp_path_factory.mktemp("datasets"), np.random.default_rng(0)
    for name in ("first", "second"):
        for split, count in (("train", 4), ("test", 2)):
            for label in range(CLASSES):
                place = root / name / split / f"class {label}"
                place.mkdir(parents=True)
                for i in range(count):
                    pixels = generator.integers(30 * label, 30 * label + 30, (8, 8, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(place / f"{i}.png")
    return root


def grid_file(folder, tmp_path, text=""):
    path = tmp_path / "grid.toml"
    exclude = "" if text.startswith("exclude") else 'exclude = ["second"]\n'
    path.write_text(f'folder = "{folder}"\n{exclude}{text}')
    return path


LINEAR = '[[config]]\nmethod = "linear"\nlearning_rate = [0.01, 0.1]\nepochs = 1\n'


def test_lists_stand_for_alternatives_and_no_config_for_the_search_space(folder, tmp_path):
    grid = Grid.from_file(grid_file(folder, tmp_path, LINEAR))
    assert [c.learning_rate for c in grid.configs] == [0.01, 0.1]
    assert {c.epochs for c in grid.configs} == {1}
    assert Grid.from_file(grid_file(folder, tmp_path)).configs == search_space()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "has colour"),
        ("seeds = [", "is not a grid"),
        ('[[config]]\nmethod = "magic"', "no method 'magic'"),
        ('exclude = "another"', "exclude='another' must be a list of names"),
        ("exclude = [1]", "must be a list of names"),
        ("seeds = 1", "seeds=1 must be a list"),
        ('images = "10"', "images='10' must be a whole number"),
        ("images = 2.5", "images=2.5 must be a whole number"),
        ("images = true", "images=True must be a whole number"),
        ("subtasks = 1", "subtasks=1 must be true or false"),
        ("backbone = 1", "must be the name of a timm model"),
        ('sources = ["tin"]', "under \\[sources\\]"),
        ('[sources]\n"tin_*" = 1', "must name a source"),
        ('[config]\nmethod = "linear"', "under a line \\[\\[config\\]\\]"),
        ('[[config]]\nmethod = "linear"\nepochs = []', "epochs = \\[\\] in .* offers no alternative"),
    ],
)
def test_grids_that_make_no_sense_are_named(folder, tmp_path, text, message):
    with pytest.raises((SelectionError, adapters.ConfigError), match=message):
        Grid.from_file(grid_file(folder, tmp_path, text))
    assert "task2vec: " in run("trials", "run", tmp_path / "grid.toml", "--store", tmp_path / "x.db", ok=False).stderr


def test_parts_of_tasks_come_after_the_whole_ones_and_keep_their_source(folder, tmp_path):
    text = f'images = 24\nsubtasks = true\n{LINEAR}[sources]\n"fir*" = "grey"\n'
    tasks = list(Grid.from_file(grid_file(folder, tmp_path, text)).tasks())
    assert [t.train.name for t in tasks] == ["first@24", "first.half1@24", "first.half2@24", "first.coarse@24"]
    assert {t.source for t in tasks} == {"grey"}
    assert [t.train.num_classes for t in tasks] == [8, 4, 4, 2]
    assert [len(t.train) for t in tasks] == [24, 16, 16, 24]
    assert tasks[1].test.class_names == tasks[1].train.class_names


def test_the_halves_share_no_class_and_the_groups_hold_each_once(folder):
    found = subtasks(Task.from_folder(folder / "first", split="train"))
    first, second = (set(found[f"first.half{n}"]) for n in (1, 2))
    assert not first & second
    assert len(first | second) == CLASSES
    assert sorted(c for group in found["first.coarse"].values() for c in group) == list(range(CLASSES))


def test_a_run_that_was_stopped_goes_on_and_runs_nothing_twice(folder, tmp_path, monkeypatch):
    grid = Grid.from_file(grid_file(folder, tmp_path, f"seeds = [0, 1]\n{LINEAR}"))
    store = TaskStore(tmp_path / "tasks.db")
    fit, runs = adapters.fit, []

    def stopping(*arguments, **options):
        runs.append(options["seed"])
        if len(runs) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(adapters, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, store, progress=False)
    assert len(store.task("first").trials) == 2
    run_grid(grid, store, progress=False)
    assert len(runs) == 5
    trials = store.task("first").trials
    assert [(t.seed, t.config.learning_rate) for t in trials] == [(0, 0.01), (0, 0.1), (1, 0.01), (1, 0.1)]
    assert all(0 <= t.score <= 1 and t.num_images == 24 and "torch" in t.environment for t in trials)
    assert store.task("first").source == "first"
    facts = as_json("trials", "run", tmp_path / "grid.toml", "--store", tmp_path / "tasks.db")
    assert facts["trials"] == 4
    assert len(runs) == 5


def test_the_search_space_varies_what_a_method_has(folder):
    assert choices_of("lora") == {"rank": (4, 16), "learning_rate": (0.005, 0.015)}
    assert not {"gps", "fish"} & {c.method for c in search_space("resnet18")}  # they need scores of a task's own
    assert {c.method for c in search_space("resnet18")} >= {"residual_serial", "conv_adapter", "linear"}
    assert "vpt_deep" not in {c.method for c in search_space("resnet18")}
    assert AdapterConfig("ssf") in search_space("task2vec_vit_patch4_32", ("ssf",))


def paint(folder, split, classes, count):
    for name, colour in classes.items():
        place = folder / split / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 8), tuple(min(255, c + 3 * i) for c in colour)).save(place / f"{i}.png")


COLOURS = {"a": (200, 0, 0), "b": (0, 200, 0), "c": (0, 0, 200)}
QUICK = AdapterConfig("linear", learning_rate=0.1, epochs=20)


def test_a_test_split_that_lacks_the_first_class_is_scored_by_the_training_splits_numbers(tmp_path):
    """Numbered by itself its labels would be shifted, and a perfect classifier would score nothing."""
    paint(tmp_path / "tints" / "colours", "train", COLOURS, 10)
    paint(tmp_path / "tints" / "colours", "test", {name: COLOURS[name] for name in ("b", "c")}, 6)
    store = TaskStore()
    run_grid(Grid(tmp_path / "tints", (QUICK,)), store, progress=False)
    (found,) = store.task("colours").trials
    assert found.score > 0.9


def test_a_test_split_with_a_class_of_its_own_is_refused_by_its_name(tmp_path):
    paint(tmp_path / "tints" / "colours", "train", COLOURS, 4)
    paint(tmp_path / "tints" / "colours", "test", COLOURS | {"zebra": (9, 9, 9)}, 2)
    with pytest.raises(TaskError, match="class 'zebra'"):
        run_grid(Grid(tmp_path / "tints", (QUICK,)), TaskStore(), progress=False)


def test_dots_in_names_belong_to_them_hidden_folders_are_passed_over_and_no_name_is_given_twice(tmp_path):
    for name in ("birds.v1", "birds.v2", ".cache"):
        paint(tmp_path / "tints" / name, "train", COLOURS, 2)
        paint(tmp_path / "tints" / name, "test", COLOURS, 2)
    grid = Grid(tmp_path / "tints", (QUICK,), subtasks=False)
    assert [task.train.name for task in grid.tasks()] == ["birds.v1", "birds.v2"]
    (tmp_path / "tints" / "birds.v1.zip").write_bytes(b"")
    with pytest.raises(SelectionError, match=r"two data sets of .* are called birds.v1"):
        next(grid.tasks())


def test_a_stored_task_of_the_same_name_and_other_images_gets_no_trials(tmp_path):
    paint(tmp_path / "tints" / "colours", "train", COLOURS, 5)
    paint(tmp_path / "tints" / "colours", "test", COLOURS, 2)
    store, grid = TaskStore(), Grid(tmp_path / "tints", (QUICK,))
    run_grid(grid, store, progress=False)
    before = store.task("colours")
    paint(tmp_path / "tints" / "colours", "train", COLOURS, 6)
    with pytest.raises(SelectionError, match=r"a task 'colours' of \d+ images, and the grid's has \d+"):
        run_grid(grid, store, progress=False)
    paint(tmp_path / "tints" / "colours", "train", {"plaid": (1, 2, 3)}, 5)
    with pytest.raises(StoreError, match="is stored with"):
        run_grid(grid, store, progress=False)
    assert store.task("colours") == before


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("images", [None, 12])
def test_a_stored_task_whose_images_were_exchanged_gets_no_trials(split, images, tmp_path):
    place = tmp_path / "tints" / "colours"
    paint(place, "train", COLOURS, 5)
    paint(place, "test", COLOURS, 2)
    store, grid = TaskStore(tmp_path / "tasks.db"), Grid(tmp_path / "tints", (QUICK,), images=images)
    run_grid(grid, store, progress=False)
    (name,) = store.names()
    shutil.make_archive(str(place), "zip", place)  # the same files in a zip are the same images
    place.rename(tmp_path / "elsewhere")
    run_grid(grid, store, progress=False)
    (embedded,) = store.embeddings()
    export_store(store, tmp_path / "all.zip")
    other = TaskStore()
    import_archive(other, tmp_path / "all.zip")
    place.with_suffix(".zip").unlink()
    (tmp_path / "elsewhere").rename(place)
    for path in (place / split).rglob("*.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(path)
    for opened in (store, other):
        with pytest.raises(SelectionError, match=f"has a task '{name}' of other images: names or sizes of files"):
            run_grid(grid, opened, progress=False)
        assert len(opened.task(name).trials) == 1
    earlier = TaskStore()  # which knew of no files
    earlier.add(dataclasses.replace(embedded, images=""))
    run_grid(grid, earlier, progress=False)


def test_trials_of_a_backbone_under_either_of_its_names_are_not_run_again(tmp_path):
    paint(tmp_path / "tints" / "colours", "train", COLOURS, 5)
    paint(tmp_path / "tints" / "colours", "test", COLOURS, 2)
    store, seconds = TaskStore(), []
    for name in ("task2vec_vit_patch4_32", "task2vec_vit_patch4_32.tin_base"):
        run_grid(Grid(tmp_path / "tints", (QUICK,), backbone=name), store, progress=False)
        seconds.append([trial.seconds for trial in store.task("colours").trials])
    assert len(seconds[0]) == 1
    assert seconds[0] == seconds[1]
