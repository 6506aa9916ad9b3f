"""Folders as people have them: every spelling of splits, every type of image, strays and links."""

import itertools
import re
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from task2vec import Task, TaskError, TaskWarning, read_splits
from task2vec.errors import UnreadableImageError
from task2vec.images import image_extensions
from task2vec.tasks import copies
from task2vec.tasks.files import Files
from task2vec.tasks.split_names import split_of
from tests.task2vec.tasks.folders import make_folder, write_image, zip_of

SPELLINGS = {
    "train": ("train", "training", "Train", "TRAINING", "training_set", "seg_train/seg_train", "train images"),
    "val": ("val", "valid", "validation", "dev", "Val", "val2017"),
    "test": ("test", "testing", "Test", "test_set", "testset", "TestData", "test-images"),
}


@pytest.mark.parametrize("name", ["cat", "trainee", "contest", "my test", "train_test", "set", "images", ""])
def test_other_names_are_no_splits(name):
    assert split_of(name) is None


@pytest.mark.parametrize("around", ["", "pets", "archive/pets"])
@pytest.mark.parametrize("spelled", list(itertools.zip_longest(*SPELLINGS.values())))
def test_splits_are_found_in_every_spelling_with_or_without_folders_around_them(tmp_path, around, spelled):
    sizes = dict(zip(SPELLINGS, (3, 2, 1), strict=True))
    names = {role: name or SPELLINGS[role][0] for role, name in zip(SPELLINGS, spelled, strict=True)}
    for role, name in names.items():
        make_folder(tmp_path / "data" / around / name, per_class=sizes[role])
    for path in (tmp_path / "data", zip_of(tmp_path / "data", tmp_path / "data.zip")):
        splits = read_splits(path)
        assert [len(task) for task in (splits.train, splits.validation, splits.test)] == [6, 4, 2]
        assert len(Task.from_folder(path)) == 6
        for role in SPELLINGS:
            assert len(Task.from_folder(path, split=role, classes_of=splits.train)) == 2 * sizes[role]
        assert Task.from_folder(path).source.endswith("/" + names["train"].split("/")[0])


def test_all_splits_have_the_classes_of_the_training_split(tmp_path):
    make_folder(tmp_path / "train", classes=("ant", "bee", "cat"))
    make_folder(tmp_path / "test", classes=("cat",), per_class=2)
    splits = read_splits(tmp_path)
    assert splits.validation is None
    assert splits.test.class_names == ("ant", "bee", "cat")
    assert splits.test.labels.tolist() == [2, 2]
    assert str(splits) == "train: 9 images in 3 classes; test: 2 images in 1 of 3 classes, none of 'ant', 'bee'"
    make_folder(tmp_path / "test", classes=("zebra",))
    with pytest.raises(TaskError, match=r"class 'zebra' of .* is not among the 3 classes"):
        read_splits(tmp_path)


def test_a_folder_without_splits_is_all_for_training(tmp_path):
    splits = read_splits(make_folder(tmp_path / "pets"))
    assert (len(splits.train), splits.validation, splits.test) == (6, None, None)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/cat", "holdout/cat"), "folder holdout/ of .* stands beside the split train/, but is none itself"),
        (("val/cat", "validation/cat", "train/cat"), "val/ and validation/ of .* are both the val split"),
        (("train/cat", "test"), "folder test/ of .* has no class folders; put its images into test/CLASS"),
        (
            ("fold1/ant", "fold1/bee", "fold2/ant", "fold2/bee"),
            "the folders fold1, fold2 of .* all hold the folders ant, bee",
        ),
        (("train", "test"), "the splits test, train of .* hold images without class folders"),
        (("cat/train", "cat/test", "dog/train"), "splits of .* lie inside its class folders"),
        (("val/cat", "test/cat"), "has no training split; it has test, val, name one with split="),
    ],
)
def test_layouts_that_could_be_misread_are_refused_with_the_remedy(tmp_path, folders, message):
    for folder in folders:
        for name in ("0.png", "1.png"):
            write_image(tmp_path / folder / name)
        if folder.count("/") == 1 and not folder.startswith(("cat", "dog")):
            write_image(tmp_path / folder.split("/")[0] / "dog" / "0.png")
    with pytest.raises(TaskError, match=message):
        Task.from_folder(tmp_path)


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".jp2", ".avif", ".webp", ".tga", ".JPG", ".pbm"])
def test_images_of_every_type_that_pillow_opens_are_read(tmp_path, ending):
    if ending.lower() not in image_extensions():
        pytest.skip(f"this Pillow opens no {ending}")
    for name, colour in (("a", "red"), ("b", "white")):
        write_image(tmp_path / name / f"x{ending}", colour)
    task = Task.from_folder(tmp_path)
    assert len(task) == len(task.readable()) == 2
    assert np.asarray(task[1][0]).mean() > np.asarray(task[0][0]).mean()


def test_images_of_a_type_that_needs_a_plugin_are_named_with_it(tmp_path):
    if ".heic" in image_extensions():
        pytest.skip("the plugin is there")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.heic").write_bytes(b"")
    with pytest.raises(TaskError, match=r"Pillow opens its 1 \.heic files once pillow-heif is installed"):
        Task.from_folder(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_without_images_beside_the_classes_is_told_of(tmp_path, packed):
    folder = make_folder(tmp_path / "pets" / "train").parent
    make_folder(folder / "test")
    (folder / "train" / "empty").mkdir()
    (folder / "train" / "empty" / ".DS_Store").write_text("left behind")
    (folder / "train" / "notes").mkdir()
    (folder / "train" / "notes" / "a.txt").write_text("text")
    path = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", folder)) if packed else folder
    expected = r"no class is made of empty \(empty\), notes \(1 other file\) in .*train"
    with pytest.warns(TaskWarning, match=expected) as told:
        task = Task.from_folder(path)
    assert (len(told), task.class_names) == (1, ("cat", "dog"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Task.from_folder(path, split="test")


def test_photographs_that_are_passed_over_for_want_of_a_plugin_are_told_of(tmp_path):
    if ".heic" in image_extensions():
        pytest.skip("the plugin is there")
    folder = make_folder(tmp_path / "pets")
    (folder / "cat" / "x.HEIC").write_bytes(b"")
    with pytest.warns(TaskWarning, match=r"passed over; Pillow opens its 1 \.heic files once pillow-heif"):
        assert len(Task.from_folder(folder)) == 6


def test_files_that_are_passed_over_are_counted_and_named_and_a_stray_one_refuses_nothing(tmp_path):
    folder = make_folder(tmp_path / "pets")
    write_image(folder / "cover.png")
    for name in ("README.txt", "cat/notes.md", ".DS_Store", "cat/Thumbs.db"):
        (folder / name).write_text("text")
    task = Task.from_folder(folder)
    assert (len(task), task.class_names) == (6, ("cat", "dog"))
    assert task.skipped == ("README.txt", "cat/notes.md", "cover.png")
    assert "3 other files skipped" in task.summary()
    make_folder(tmp_path / "split" / "train")
    make_folder(tmp_path / "split" / "test")
    write_image(tmp_path / "split" / "cover.png")
    write_image(tmp_path / "split" / "train" / "cover.png")
    assert Task.from_folder(tmp_path / "split").skipped == ("cover.png", "train/cover.png")


def test_links_are_followed_once_and_give_way_to_what_they_lead_to(tmp_path):
    folder = make_folder(tmp_path / "pets")
    (folder / "aaa").symlink_to(folder / "dog")  # comes first by its name, but is no class of its own
    (folder / "cat" / "again.png").symlink_to(folder / "cat" / "0.png")
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "dog" / "loop.png").symlink_to("loop.png")
    write_image(tmp_path / "elsewhere.png")
    (folder / "dog" / "other.png").symlink_to(tmp_path / "elsewhere.png")
    task = Task.from_folder(folder)
    assert task.class_names == ("cat", "dog")
    assert task.labels.tolist() == [0] * 4 + [1] * 5
    assert task.skipped == ("aaa", "cat/again.png")
    with pytest.raises(UnreadableImageError, match=r"cannot read image .*cat/gone.png \(.*No such file"):
        task[3]
    with pytest.raises(UnreadableImageError, match=r"cannot read image .*dog/loop.png \(.*symbolic links"):
        task[4 + 3]


@pytest.mark.parametrize("whole", [False, True])
def test_splits_that_are_links_to_what_is_read_anyway_are_refused(tmp_path, whole):
    folder = make_folder(tmp_path / "pets" / "all")
    for split in ("train", "test"):
        if whole:
            (tmp_path / "pets" / split).symlink_to(folder)
            continue
        for image in folder.rglob("*.png"):
            link = tmp_path / "pets" / split / image.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image)
    with pytest.raises(TaskError, match=r"in .*pets is one of \d+ links in splits to what is read from that folder"):
        read_splits(tmp_path / "pets")


@pytest.mark.parametrize("packed", [False, True])
def test_files_of_one_content_in_two_splits_are_told_of(tmp_path, packed):
    root = tmp_path / "pets"
    make_folder(root / "train", per_class=5)
    shutil.copytree(root / "train", root / "test")
    make_folder(root / "val")  # of other colours
    with pytest.warns(TaskWarning) as told:
        read_splits(zip_of(root, tmp_path / "pets.zip") if packed else root)
    (one,) = told
    assert re.match(r"of the images of pets(\.zip)?/test 10 are also in pets(\.zip)?/train, such as ", str(one.message))


def test_a_damaged_member_among_possible_copies_is_named_where_it_is_decoded(tmp_path):
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)):
        place = tmp_path / "spots" / ("train" if i < 20 else "val") / "ab"[i % 2] / f"{i:03}.bmp"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    archive = zip_of(tmp_path / "spots", tmp_path / "spots.zip")
    with zipfile.ZipFile(archive) as members:
        member = members.getinfo("spots/train/a/000.bmp")
    content = bytearray(archive.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + member.compress_size - 1] ^= 1
    archive.write_bytes(content)
    splits = read_splits(archive)
    assert (len(splits.train), len(splits.validation)) == (20, 20)
    (unreadable,) = splits.train.readable(workers=0).unreadable
    assert "train/a/000.bmp" in unreadable


def test_of_many_files_that_may_be_copies_a_sample_is_read(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (120, 8, 8, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):  # of one size each, and the last twenty copies of the first
        place = tmp_path / "spots" / ("train" if i < 60 else "test") / "ab"[i % 2] / f"{i:03}.bmp"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if i < 100 else pixels[i - 100]).save(place)
    read, own = [], Files.read
    monkeypatch.setattr(Files, "read", lambda self, name: read.append(name) or own(self, name))
    with pytest.warns(TaskWarning, match=r"test 20 are also in spots/train"):
        read_splits(tmp_path / "spots")
    assert len(read) == 120
    read.clear()
    monkeypatch.setattr(copies, "BUDGET", 60 * copies.OPENING)
    with pytest.warns(TaskWarning, match=r"test at least \d+ are also in spots/train"):
        read_splits(tmp_path / "spots")
    assert len(read) == 60


def test_splits_of_links_to_images_elsewhere_are_read(tmp_path):
    folder = make_folder(tmp_path / "all")
    for number, image in enumerate(sorted(folder.rglob("*.png"))):
        link = tmp_path / "pets" / ("train" if number % 3 else "test") / image.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image)
    splits = read_splits(tmp_path / "pets")
    assert (len(splits.train), len(splits.test)) == (4, 2)


def test_a_class_without_a_readable_image_is_an_error_that_names_it(tmp_path):
    folder = make_folder(tmp_path / "pets", classes=("cat", "dog"), per_class=20)
    (folder / "emu").mkdir()
    (folder / "emu" / "0.png").write_text("not an image")
    for read in (Task.readable, Task.decoded):
        with pytest.raises(TaskError, match=r"class 'emu' of task 'pets' has no readable image left: .*emu/0\.png"):
            read(Task.from_folder(folder))


def test_classes_from_the_names_of_files(tmp_path):
    for name in ("maine_coon_1.png", "maine_coon_2.png", "sub/pug_1.png", "IMG.png"):
        write_image(tmp_path / "pets" / name)
    task = Task.from_names(tmp_path / "pets", r"(.+)_\d+")
    assert (task.class_names, task.labels.tolist(), task.name) == (("maine_coon", "pug"), [0, 0, 1], "pets")
    assert task.skipped == ("IMG.png",)
    named = Task.from_names(tmp_path / "pets", r"(?P<label>.+)_(\d+)")
    assert named.labels.tolist() == task.labels.tolist()
    for pattern, message in (
        ("[", "no regular expression"),
        (r".+_\d+", "must have one group"),
        (r"(\d+)-", "fits no file of .*, such as IMG.png"),
    ):
        with pytest.raises(TaskError, match=message):
            Task.from_names(tmp_path / "pets", pattern)


def test_a_picture_in_a_zip_that_is_a_folder_of_splits_is_the_one_of_the_folder(tmp_path):
    make_folder(tmp_path / "pets" / "Training")
    make_folder(tmp_path / "pets" / "Testing", per_class=1)
    one = Task.from_folder(tmp_path / "pets")
    other = Task.from_folder(zip_of(tmp_path / "pets", tmp_path / "pets.zip"))
    assert one.source.split("/")[-1] == other.source.split("/")[-1] == "Training"
    assert [np.asarray(one[i][0]).tolist() for i in range(6)] == [np.asarray(other[i][0]).tolist() for i in range(6)]
    assert isinstance(one[0][0], Image.Image)


@pytest.mark.slow
def test_real_datasets_are_read_with_all_their_splits(datasets):
    for path in sorted(datasets.glob("*.zip")):
        splits = read_splits(path)
        assert splits.test is not None, path
        assert splits.test.class_names == splits.train.class_names
        assert not splits.train.skipped
        assert splits.train[0][0].mode == "RGB"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_a_zip_lists_twice_is_one_image(tmp_path):
    path = zip_of(make_folder(tmp_path / "pets"), tmp_path / "pets.zip")
    expected = len(Task.from_folder(path))
    with zipfile.ZipFile(path, "a") as archive:
        for name in archive.namelist():
            archive.writestr(name, archive.read(name))
    assert len(Task.from_folder(path)) == expected
