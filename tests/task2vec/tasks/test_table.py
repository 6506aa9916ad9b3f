"""Labels from a table."""

import shutil
from itertools import product

import pytest

from task2vec import Task, TaskError, TaskWarning, read_splits
from tests.task2vec.tasks.folders import write_image, zip_of

ROWS = "a.png,oak\nb.png,ash\nsub/c.png,oak\n"


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        write_image(tmp_path / "trees" / name, (200, 10 * i, 10))
    return tmp_path / "trees"


@pytest.mark.parametrize("header", ["file,label\n", "Filename,Class\n", ""])
def test_a_table_of_files_and_labels_is_a_task_whatever_its_header(folder, header):
    (folder / "labels.csv").write_text(header + ROWS)
    task = Task.from_table(folder / "labels.csv")
    assert (task.class_names, task.labels.tolist(), task.name) == (("ash", "oak"), [1, 0, 1], "labels")
    assert task[2][0].size == (8, 6)


def test_columns_and_the_root_of_the_files_may_be_named(folder, tmp_path):
    (tmp_path / "table.tsv").write_text("id\tspecies\tgenus\na.png\tx\toak\nb.png\ty\tash\n")
    named = {"file": "id", "label": "genus"}
    for root in (folder, zip_of(folder, tmp_path / "trees.zip")):
        if not root.is_dir():
            (tmp_path / "table.tsv").write_text("id\tgenus\ntrees/a.png\toak\ntrees/b.png\tash\n")
        task = Task.from_table(tmp_path / "table.tsv", root=root, **named)
        assert task.class_names == ("ash", "oak")
        assert len(task.readable()) == 2


def test_a_split_column_makes_splits_of_one_label_space(folder):
    (folder / "t.csv").write_text("file,label,split\na.png,oak,Training\nb.png,ash,train\nsub/c.png,oak,valid\n")
    splits = read_splits(folder / "t.csv")
    assert (splits.train.labels.tolist(), splits.validation.labels.tolist(), splits.test) == ([1, 0], [1], None)
    assert len(Task.from_table(folder / "t.csv")) == 2
    assert Task.from_table(folder / "t.csv", split="dev", classes_of=splits.train).labels.tolist() == [1]


@pytest.mark.parametrize("separator", [None, "|"])
def test_labels_are_the_same_class_however_their_accents_are_spelled(folder, separator):
    labels = ("caf\u00e9", "cafe\u0301", "tea")
    rows = "".join(f"{i}.png,{label},{split}\n" for i, (label, split) in enumerate(product(labels, ("train", "test"))))
    (folder / "labels.csv").write_text("file,label,split\n" + rows)
    write_image(folder / "0.png")
    splits = read_splits(folder / "labels.csv", separator=separator)
    for task in (splits.train, splits.test):
        assert task.class_names == ("caf\u00e9", "tea")
        assert len(task) == 3


def test_files_of_one_content_in_two_splits_of_a_table_are_told_of(folder):
    shutil.copy(folder / "a.png", folder / "again.png")
    rows = "a.png,oak,train\nb.png,ash,train\nagain.png,oak,test\nsub/c.png,ash,test\nnone.png,ash,test\n"
    (folder / "t.csv").write_text("file,label,split\n" + rows)
    with pytest.warns(TaskWarning, match=r"of the images of t.csv/test 1 is also in t.csv/train, such as again.png, "):
        read_splits(folder / "t.csv")


def test_several_labels_are_separated_by_what_is_said(folder):
    (folder / "t.csv").write_text("file,label\na.png,oak|tall\nb.png,\nsub/c.png,tall\n")
    task = Task.from_table(folder / "t.csv", separator="|")
    assert task.multi_label
    assert (task.class_names, task.labels.tolist()) == (("oak", "tall"), [[1, 1], [0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("file,label\na.png,oak|tall\nb.png,ash\n", {}, r"label 'oak\|tall' in row 0 .* looks like several; give sep"),
        ("file,label\na.png,oak\na.png,ash\n", {}, "a.png stands in two rows of .*, 0 and 1"),
        ("file,label,split\na.png,o,train\na.png,o,test\n", {}, "a.png stands in two splits of"),
        ("file,label\na.png,oak\nb.png,\n", {}, r"row 1 of .* \(b.png\) has no label"),
        ("file,label,split\na.png,o,train\n./sub/../a.png,o,test\n", {}, "a.png stands in two splits of"),
        ("file,label\na.png,oak\nb.png,NaN\n", {}, r"row 1 of .* \(b.png\) has the label 'NaN'"),
        ("file,label,split\na.png,oak,later\n", {}, "row 0 of .* is in split 'later'; call it train, val or test"),
        ("file,label\nx.png,oak\ny.png,ash\n", {}, "none of the 2 files of .*, such as x.png, is under .*; give root="),
        ("one,two\na,oak\n", {}, "has the columns one, two; name the one of the files with file="),
        ("file,label\na.png,oak\nb.png,ash\n", {"label": "kind"}, "has no column 'kind'; it has file, label"),
        ("file,label\na.png,oak\nb.png\n", {}, "row 1 of .* has 1 cells, but there are 2 columns"),
        ("file,label\na.png,oak\nb.png,elm, tall\n", {}, "row 1 of .* has 3 cells, but there are 2 columns"),
        ('file,label\na.png,"oak\nb.png,elm\n', {}, "cannot read the table"),
        ('file,label\na.png,"oak\nb.png,elm"\nc.png,elm\n', {}, "row 0 of .* has a line break in a cell"),
        ("file,label,Label\na.png,oak,elm\n", {}, "two columns of .* are called 'label'"),
        ("file,label,split\na.png,oak,train\nFOLDER/a.png,oak,test\n", {}, "stands in two splits of .*, 0 and 1"),
        ("", {}, "is empty"),
        ("file,label\na.png,oak\nb.png,ash\n", {"split": "test"}, "has no split 'test', nor a column 'split'"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_with_the_row(folder, text, settings, message):
    (folder / "t.csv").write_text(text.replace("FOLDER", str(folder)))
    with pytest.raises(TaskError, match=message):
        Task.from_table(folder / "t.csv", **settings)


def test_a_parquet_table_is_read_like_a_csv(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"file": ["a.png", "b.png", "sub/c.png"], "label": [7, 3, 7]})
    parquet.write_table(table, folder / "t.parquet")
    assert Task.from_table(folder / "t.parquet").class_names == ("3", "7")


def test_a_parquet_column_of_lists_is_refused(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pyarrow.table({"file": ["3/0.png", "7/0.png"], "label": [["3"], ["3", "7"]]})
    parquet.write_table(table, folder / "lists.parquet")
    with pytest.raises(TaskError, match=r"column 'label' of .* has several values in a cell"):
        Task.from_table(folder / "lists.parquet")


def test_a_missing_parquet_reader_is_named(folder):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        (folder / "t.parquet").write_bytes(b"")
        with pytest.raises(TaskError, match="needs pyarrow; pip install pyarrow, or give a CSV"):
            Task.from_table(folder / "t.parquet")
    else:
        (folder / "t.parquet").write_bytes(b"")
        with pytest.raises(TaskError, match="cannot read the table"):
            Task.from_table(folder / "t.parquet")
