import io
import struct
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from task2vec import Splits, Task, TaskError, UnreadableImageError, embed, load_probe, read_splits
from task2vec.images import open_image
from task2vec_base.pictures import to_rgb
from tests.conftest import random_task
from tests.task2vec.tasks.folders import damage, make_folder, write_image, zip_of


def test_a_folder_and_a_zip_of_it_are_the_same_task(tmp_path):
    folder = make_folder(tmp_path / "pets")
    one, other = Task.from_folder(folder), Task.from_folder(zip_of(folder, tmp_path / "pets.zip"))
    assert one.class_names == other.class_names == ("cat", "dog")
    assert one.name == other.name == "pets"
    np.testing.assert_array_equal(one.labels, other.labels)
    for i in range(len(one)):
        np.testing.assert_array_equal(np.asarray(one[i][0]), np.asarray(other[i][0]))


def test_a_folder_of_splits_gives_the_split_asked_for_and_train_by_default(tmp_path):
    make_folder(tmp_path / "pets" / "train", per_class=3)
    make_folder(tmp_path / "pets" / "test", per_class=2)
    assert len(Task.from_folder(tmp_path / "pets")) == 6
    assert len(Task.from_folder(tmp_path / "pets", split="test")) == 4
    assert Task.from_folder(tmp_path / "pets" / "test").name == "pets"
    with pytest.raises(TaskError, match=r"no split 'val'; it has test, train"):
        Task.from_folder(tmp_path / "pets", split="val")


def test_a_class_called_train_is_not_taken_for_a_split(tmp_path):
    make_folder(tmp_path / "vehicles", classes=("car", "train"))
    assert Task.from_folder(tmp_path / "vehicles").class_names == ("car", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images under"),
        (["cat/1.png", "cat/2.png"], r"only one class \('cat'\)"),
        (["1.png", "2.png"], "the 2 images of .*data are not in class folders; .* Task.from_names"),
    ],
)
def test_folders_that_are_no_task_are_refused_by_name(tmp_path, files, message):
    (tmp_path / "data").mkdir()
    for file in files:
        write_image(tmp_path / "data" / file)
    with pytest.raises(TaskError, match=message):
        Task.from_folder(tmp_path / "data")


def test_a_task_is_called_after_its_folder_however_the_folder_is_named(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "pets.v2" / "train")
    monkeypatch.chdir(folder)
    for path in (folder, folder.parent, ".", "..", "../train"):
        assert Task.from_folder(path).name == "pets.v2"


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    folder = make_folder(tmp_path / "pets")
    write_image(folder / ".checkpoints" / "cat.png")
    write_image(folder / "__MACOSX" / "cat.png")
    write_image(folder / "cat" / "._1.png")
    task = Task.from_folder(folder)
    assert task.class_names == ("cat", "dog")
    assert len(task) == 6


def test_a_missing_path_and_a_file_that_is_no_zip_are_refused_by_name(tmp_path):
    with pytest.raises(TaskError, match="no folder or zip at"):
        Task.from_folder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(TaskError, match="neither a folder nor a zip"):
        Task.from_folder(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("mode", "extension"), [("L", "png"), ("P", "png"), ("1", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("RGB", "jpg")]
)
def test_every_colour_mode_becomes_rgb(tmp_path, mode, extension):
    write_image(tmp_path / "a" / f"x.{extension}", (200, 200, 200), mode=mode)
    write_image(tmp_path / "b" / f"x.{extension}", (200, 200, 200), mode=mode)
    image, _ = Task.from_folder(tmp_path)[0]
    assert image.mode == "RGB"
    tolerance = 60 if mode == "1" else 4  # one bit can only dither
    assert abs(np.asarray(image).mean() - 200) < tolerance


def test_transparent_pixels_are_laid_on_white(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / name / "x.png")
    assert np.asarray(Task.from_folder(tmp_path)[0][0]).min() == 255


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / name / "x.png")
    assert abs(int(np.asarray(Task.from_folder(tmp_path)[0][0])[0, 0, 0]) - 40_000 // 256) <= 1


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for name in "ab":
        write_image(tmp_path / name / "x.jpg", size=(8, 4), exif=exif)
    assert Task.from_folder(tmp_path)[0][0].size == (4, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_would_and_once_whatever_else_its_exif_says(orientation):
    pixels = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    turned = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    odd = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc")  # a text for a width
    start, end = b"Exif\0\0II*\0\x08\0\0\0", b"\0\0\0\0"
    plain, damaged = start + b"\1\0" + turned + end, start + b"\2\0" + odd + turned + end
    found = []
    for exif in (plain, damaged):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=exif)
        found.append(Image.open(file))
    expected = np.asarray(ImageOps.exif_transpose(found[0]))
    for image in found:
        np.testing.assert_array_equal(to_rgb(image), expected)
        np.testing.assert_array_equal(to_rgb(to_rgb(image)), expected)
    if orientation > 1:
        with pytest.raises(struct.error):
            ImageOps.exif_transpose(Image.open(file))


def test_a_few_unreadable_images_are_left_out_and_named(tmp_path):
    folder = make_folder(tmp_path / "pets", per_class=10)
    damage(folder / "cat" / "3.png")
    (folder / "dog" / "5.png").write_text("not an image")
    task = Task.from_folder(folder).readable()
    assert len(task) == 18
    assert [("cat/3.png" in m, "dog/5.png" in m) for m in task.unreadable] == [(True, False), (False, True)]


def test_too_many_unreadable_images_are_an_error_that_names_some(tmp_path):
    folder = make_folder(tmp_path / "pets", per_class=5)
    for i in range(3):
        damage(folder / "cat" / f"{i}.png")
    with pytest.raises(UnreadableImageError, match=r"3 of 10 images .* cannot be read, such as .*cat/0\.png"):
        Task.from_folder(folder).readable()


def test_a_damaged_member_of_a_zip_is_unreadable_not_fatal(tmp_path):
    archive = zip_of(make_folder(tmp_path / "pets", per_class=10), tmp_path / "pets.zip")
    blob = bytearray(archive.read_bytes())
    at = blob.find(b"IDAT")
    blob[at : at + 20] = bytes(20)
    archive.write_bytes(bytes(blob))
    assert len(Task.from_folder(archive).readable().unreadable) == 1


LAYOUTS = {
    "grey": np.zeros((4, 5, 6), np.uint8),
    "channels last": np.zeros((4, 5, 6, 3), np.uint8),
    "channels first": np.zeros((4, 3, 5, 6), np.uint8),
    "one channel": np.zeros((4, 5, 6, 1), np.uint8),
    "transparent": np.zeros((4, 5, 6, 4), np.uint8),
    "float": np.zeros((4, 5, 6, 3), np.float32),
    "double": np.zeros((4, 5, 6), np.float64),
    "bool": np.zeros((4, 5, 6), bool),
    "int64": np.zeros((4, 5, 6), np.int64),
}


@pytest.mark.parametrize(
    ("pixels", "ending", "seen"),
    [
        (np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4), "tiff", np.linspace(0, 255, 16).round()),
        (np.arange(0, 256, 16, dtype=np.float32).reshape(4, 4), "tiff", np.arange(0, 256, 16)),
        (np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4), "png", np.arange(0, 256, 16)),
        (np.zeros((4, 4), np.uint16), "png", np.zeros(16)),
        (np.eye(4, dtype=np.float32), "tiff", 255 * np.eye(4).ravel()),
    ],
)
def test_pixels_of_more_than_8_bits_keep_their_brightness(pixels, ending, seen, tmp_path):
    Image.fromarray(pixels).save(tmp_path / f"x.{ending}")
    found = open_image((tmp_path / f"x.{ending}").read_bytes, "x")
    np.testing.assert_array_equal(np.asarray(found)[..., 0].ravel(), seen)


@pytest.mark.parametrize(
    ("brightest", "dtype", "ending"),
    [(255, np.uint16, "png"), (1023, np.uint16, "png"), (4095, np.int32, "tiff"), (300, np.float32, "tiff")],
)
def test_8_to_12_bits_saved_as_more_are_no_image_since_they_would_be_black(brightest, dtype, ending, tmp_path):
    Image.fromarray(np.linspace(0, brightest, 256).astype(dtype).reshape(16, 16)).save(tmp_path / f"x.{ending}")
    with pytest.raises(UnreadableImageError, match=f"are at most {brightest} of 65535, which is black"):
        open_image((tmp_path / f"x.{ending}").read_bytes, "x")


@pytest.mark.parametrize("top", [1, 255])
def test_what_resampling_adds_beyond_the_range_of_float_pixels_is_cut_off(top, tmp_path):
    pixels = np.full((50, 50), 0.5, np.float32)
    pixels[10:13, 10:13], pixels[30:33, 30:33] = 0, 1
    resized = Image.fromarray(pixels * top).resize((125, 125), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)
    assert pixels.min() < -0.05 * top
    assert pixels.max() > 1.05 * top
    resized.save(tmp_path / "x.tiff")
    found = np.asarray(open_image((tmp_path / "x.tiff").read_bytes, "x"))[..., 0]
    np.testing.assert_allclose(found, 255 * (pixels / top).clip(0, 1), atol=1)
    if top == 1:
        task = Task.from_arrays(np.stack([pixels, pixels]), [0, 1])
        np.testing.assert_array_equal(np.asarray(task[0][0])[..., 0], found)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 10), (0, 1.4), (-0.5, 0.5), (-1, 1), (-5, 12), (-100, 200), (-0.2, 0.8), (0, 70_000)]
)
def test_float_pixels_of_no_known_range_are_refused_from_files_and_arrays(low, high, tmp_path):
    pixels = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    with pytest.raises(UnreadableImageError, match=f"its pixels span {low:g} to {high:g}, .*; rescale them"):
        open_image((tmp_path / "x.tiff").read_bytes, "x")
    with pytest.raises(TaskError, match=r"must lie in \[0, 1\]"):
        Task.from_arrays(np.stack([pixels, pixels]), [0, 1])


def test_a_white_ground_that_rounding_put_beyond_its_range_is_white():
    pixels = np.full((2, 8, 8), 1.0000001, np.float32)
    assert np.asarray(Task.from_arrays(pixels, [0, 1])[0][0]).min() == 255


@pytest.mark.parametrize(
    ("pixels", "seen"),
    [([0, 1], [0, 255]), ([0, 2], [0, 2]), ([0, 15], [0, 15]), ([0, 255], [0, 255]), ([0, 65_535], [0, 255])],
)
def test_whole_numbers_of_32_bits_are_read_by_their_largest(pixels, seen, tmp_path):
    Image.fromarray(np.array([pixels], np.int32)).save(tmp_path / "x.tiff")
    assert np.asarray(open_image((tmp_path / "x.tiff").read_bytes, "x"))[0, :, 0].tolist() == seen


@pytest.mark.parametrize("pixels", [[0, 100, 300], [-70, 0, 300], [-1, 0, 255]])
def test_resampling_adds_nothing_to_whole_numbers_so_that_none_is_cut_off(pixels, tmp_path):
    values = np.zeros((20, 20), np.int32)  # few are beyond
    values[0, :3] = pixels
    Image.fromarray(values).save(tmp_path / "x.tiff")
    with pytest.raises(UnreadableImageError, match=r"which is black|outside of 0 to 65535"):
        open_image((tmp_path / "x.tiff").read_bytes, "x")
    with pytest.raises(TaskError, match=r"int32 images must lie in \[0, 255\]"):
        Task.from_arrays(np.stack([values, values]), [0, 1])


def test_fourteen_bits_in_sixteen_are_as_dark_as_they_are_seen(tmp_path):
    Image.fromarray(np.linspace(0, 16_383, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "x.png")
    assert np.asarray(open_image((tmp_path / "x.png").read_bytes, "x")).max() == 63


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_arrays_of_every_layout_and_dtype_become_rgb_images(layout, convert):
    task = Task.from_arrays(convert(LAYOUTS[layout]), [0, 1, 0, 1])
    assert task[0][0].size == (6, 5)
    assert task[0][0].mode == "RGB"


def test_float_pixels_keep_their_values():
    images = np.linspace(0, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    task = Task.from_arrays(images, [0, 1])
    np.testing.assert_allclose(np.asarray(task[1][0]) / 255, images[1], atol=0.5 / 255 + 1e-9)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((2, 4, 4), np.nan), [0, 1], "image 0 has NaN"),
        (np.stack([np.zeros((4, 4)), np.full((4, 4), np.inf)]), [0, 1], "image 1 has NaN or infinite"),
        (np.full((2, 4, 4), 16.0), [0, 1], r"must lie in \[0, 1\] and yours span \[16, 16\]"),
        (np.full((2, 4, 4), 300), [0, 1], r"must lie in \[0, 255\]"),
        (np.zeros((2, 4, 4)), [0.5, 1.0], r"label 0 is 0\.5"),
        (np.zeros((2, 4, 4)), [-1, 1], "label 0 is -1"),
        (np.zeros((2, 4, 4)), np.array(["a", None], object), r"label 1 is missing \(None\)"),
        (np.zeros((2, 4, 4)), np.array([float("nan"), "a"], object), r"label 0 is missing \(nan\)"),
        (np.zeros((2, 4, 4)), [0, 1, 2], "2 images need 2 labels"),
        (np.zeros((2, 4, 4)), [1, 1], "only one class"),
        (np.zeros((0, 4, 4)), [], "no images"),
        (np.zeros((2, 4)), [0, 1], "have shape"),
        (np.array([["a", "b"]]), [0], "have shape"),
    ],
)
def test_arrays_that_are_no_task_are_refused_with_the_value(images, labels, message):
    with pytest.raises(TaskError, match=message):
        Task.from_arrays(images, labels)


def test_labels_with_gaps_whole_floats_and_strings_each_become_classes():
    images = np.zeros((4, 4, 4))
    for labels, names in (
        ([3, 7, 7, 9], ("3", "7", "9")),
        ([0.0, 2.0, 2.0, 5.0], ("0", "2", "5")),
        (["oak", "ash", "ash", "elm"], ("ash", "elm", "oak")),
        (np.array(["oak", "ash", "ash", "elm"]).astype(bytes), ("ash", "elm", "oak")),
    ):
        task = Task.from_arrays(images, labels)
        assert task.class_names == names
        texts = [v.decode() if isinstance(v, bytes) else str(v).removesuffix(".0") for v in labels]
        assert [task.class_names[i] for i in task.labels] == texts


class Columns(list):
    """A stand-in with the interface of a Hugging Face dataset: items are mappings, columns are named."""

    column_names = ("image", "label")

    def __getitem__(self, key):
        return [item[key] for item in self] if isinstance(key, str) else super().__getitem__(key)


def test_truth_values_take_two_class_names_and_strings_none_but_their_own():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    truth, words = np.array([True, False, True, False]), np.array(["dog", "cat", "dog", "cat"])
    task = Task.from_arrays(images, truth, class_names=["cat", "dog"])
    assert [task.class_names[label] for label in task.labels] == ["dog", "cat", "dog", "cat"]
    assert Task.from_arrays(images, truth).class_names == ("False", "True")
    task = Task.from_arrays(images, words, class_names=["dog", "cat", "owl"])
    assert [task.class_names[label] for label in task.labels] == words.tolist()
    with pytest.raises(TaskError, match="need two class names, that of False first"):
        Task.from_arrays(images, truth, class_names=["cat", "dog", "owl"])
    with pytest.raises(TaskError, match="label 'cat' is none of the class names"):
        Task.from_arrays(images, words, class_names=["a", "b"])
    with pytest.raises(TaskError, match=r"label b'\\xff' is no text in UTF-8"):
        Task.from_arrays(images, np.array([b"cat", b"\xff", b"cat", b"cat"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1, 0], "the label of image 2 of task 'odd' is -1; labels must be whole numbers from 0 to 1"),
        ([0, 2, 1, 0], "the label of image 1 of task 'odd' is 2"),
        ([[0, 1], [1, 3], [0, 0], [1, 1]], "the label of image 1 of task 'odd' is 3"),
        ([[0, 1, 1]] * 4, "labels of task 'odd' are of 3 classes, but it has 2 class names"),
    ],
)
def test_labels_of_no_class_are_refused(labels, message):
    with pytest.raises(TaskError, match=message):
        Task("odd", np.array(labels), ("cat", "dog"), random_task(4).images)


def test_map_style_datasets_of_pairs_and_of_mappings_are_tasks():
    image = Image.new("L", (5, 5), 77)
    pairs = [(image, i % 2) for i in range(4)]
    tensors = [(torch.full((3, 5, 5), 77 / 255), torch.tensor(i % 2)) for i in range(4)]
    columns = Columns({"image": image, "label": i % 2} for i in range(4))
    for dataset in (pairs, tensors, columns):
        task = Task.from_dataset(dataset)
        np.testing.assert_array_equal(task.labels, [0, 1, 0, 1])
        assert np.asarray(task[0][0])[0, 0].tolist() == [77, 77, 77]


def test_a_torchvision_dataset_brings_its_class_names(tmp_path):
    from torchvision.datasets import ImageFolder

    folder = make_folder(tmp_path / "pets")
    task = Task.from_dataset(ImageFolder(folder))
    assert task.class_names == ("cat", "dog")
    np.testing.assert_array_equal(np.asarray(task[4][0]), np.asarray(Task.from_folder(folder)[4][0]))


def test_datasets_without_images_or_labels_are_refused():
    for dataset, message in (
        (iter([]), "no length"),
        ([], "is empty"),
        ([1, 2], "items are int"),
        ([{"x": 1}], "have the columns x"),
    ):
        with pytest.raises(TaskError, match=message):
            Task.from_dataset(dataset)


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6).filter(lambda c: sum(n > 1 for n in c) > 1),
    share=st.floats(0.1, 0.6),
    seed=st.integers(0, 5),
)
def test_a_split_is_disjoint_complete_and_keeps_every_class_in_the_first_part(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels), dtype=np.uint8).repeat(4).reshape(-1, 2, 2)
    first, second = Task.from_arrays(images, labels).split(share, seed=seed)
    seen = [[int(np.asarray(part[i][0])[0, 0, 0]) for i in range(len(part))] for part in (first, second)]
    assert sorted(seen[0] + seen[1]) == list(range(len(labels)))
    assert set(first.labels) == set(range(len(counts)))


@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=6), data=st.data())
def test_a_subsample_has_the_size_asked_for_and_every_class_in_proportion(counts, data):
    labels = np.repeat(np.arange(len(counts)), counts)
    count = data.draw(st.integers(len(counts), len(labels)))
    part = Task.from_arrays(np.zeros((len(labels), 2, 2), np.uint8), labels).subsample(count)
    assert len(part) == count
    sizes = np.bincount(part.labels, minlength=len(counts))
    assert (sizes >= 1).all()
    assert (np.abs(sizes - count * np.array(counts) / len(labels)) <= len(counts)).all()


@pytest.mark.parametrize(
    ("labels", "names", "scarce"),
    [
        ([0] * 20 + [1], "ab", "with a single one of 'b'"),
        ([0, 1, 2, 3, 4], "abcde", "with a single one of 'a', 'b', 'c' and 2 more"),
        ([[0, 1], [1, 0], [1, 1]], "ab", "as those set aside would all have the same labels"),
    ],
)
def test_a_task_that_cannot_be_split_says_which_class_is_scarce_and_what_helps(labels, names, scarce):
    task = Task.from_arrays(np.zeros((len(labels), 4, 4)), labels, class_names=list(names))
    with pytest.raises(TaskError, match=rf"set 20% aside, {scarce}; add images, .* a folder val/ beside train/"):
        task.split(0.2)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_class_folders_are_the_same_class_however_their_accents_are_spelled(tmp_path):
    make_folder(tmp_path / "drinks" / "train", (COMPOSED, "tea"))
    make_folder(tmp_path / "drinks" / "test", (DECOMPOSED, "tea"))
    splits = read_splits(tmp_path / "drinks")
    assert splits.train.class_names == splits.test.class_names == (COMPOSED, "tea")
    make_folder(tmp_path / "mixed", (COMPOSED, DECOMPOSED, "tea"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = Task.from_folder(tmp_path / "mixed")
    assert mixed.class_names == (COMPOSED, "tea")
    assert [mixed.class_names[label] for label in mixed.labels] == [COMPOSED] * 6 + ["tea"] * 3


def test_names_of_classes_are_the_same_however_their_accents_are_spelled():
    images = np.zeros((3, 4, 4))
    for names in (None, [COMPOSED, "tea"], [DECOMPOSED, "tea"]):
        task = Task.from_arrays(images, [COMPOSED, DECOMPOSED, "tea"], class_names=names)
        assert task.class_names == (COMPOSED, "tea")
        assert task.labels.tolist() == [0, 0, 1]
    rows = Task.from_arrays(images, np.eye(3, dtype=int), class_names=[COMPOSED, "tea", DECOMPOSED])
    assert rows.class_names == (COMPOSED, "tea")
    assert rows.labels.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_names_of_classes_that_are_numbers_are_taken_as_texts():
    images = np.zeros((3, 4, 4))
    assert Task.from_arrays(images, [1, 0, 1], class_names=[7, 9]).class_names == ("7", "9")
    assert Task.from_arrays(images, np.eye(3, dtype=int), class_names=[0, 1, 2]).class_names == ("0", "1", "2")
    assert Task.from_arrays(images, ["1", "0", "1"], class_names=[0, 1]).labels.tolist() == [1, 0, 1]
    with pytest.raises(TaskError, match="two classes of task 'arrays' are called '1'"):
        Task.from_arrays(images, [1, 0, 1], class_names=[1, "1"])


def test_decoding_runs_ahead_in_order():
    images = np.arange(10, dtype=np.uint8).repeat(4).reshape(-1, 2, 2)
    task = Task.from_arrays(images, np.arange(10) % 2)
    pixels = []
    for start, batch, bad in task.batches(lambda image: torch.tensor(np.asarray(image)[0, 0, 0]), 4):
        assert start == len(pixels)
        assert not bad
        pixels += batch.tolist()
    assert pixels == list(range(10))


def test_images_in_memory_survive_a_round_trip_through_png():
    image = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    task = Task.from_dataset([(Image.open(buffer), 0), (Image.fromarray(image), 1)])
    np.testing.assert_array_equal(np.asarray(task[0][0]), np.asarray(task[1][0]))


def test_labels_in_rows_make_a_multi_label_task():
    images = np.random.default_rng(0).integers(256, size=(10, 8, 8, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(2, size=(10, 3))
    task = Task.from_arrays(images, labels, class_names=["red", "round", "large"])
    assert (task.multi_label, task.num_classes, task.class_names) == (True, 3, ("red", "round", "large"))
    np.testing.assert_array_equal(task[4][1], labels[4])
    first, second = task.split(0.3)
    assert (len(first), len(second)) == (7, 3)
    assert len(task.subsample(4)) == 4
    dataset = [(Image.fromarray(image), torch.tensor(row)) for image, row in zip(images, labels, strict=True)]
    np.testing.assert_array_equal(Task.from_dataset(dataset).labels, labels)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[0, 2], [1, 0]], None, "label 0 has 2 for class 1"),
        ([[1, 0], [1, 0]], None, "same labels"),
        ([[1, 0], [0, 0]], ["only"], "2 classes, but 1 class names"),
        ([[1], [0]], None, r"a single column, .*labels\[:, 0\]"),
    ],
)
def test_rows_that_are_no_labels_are_refused(labels, names, message):
    with pytest.raises(TaskError, match=message):
        Task.from_arrays(np.zeros((2, 8, 8), np.uint8), np.array(labels), class_names=names)


def test_new_classes_are_made_of_old_ones_and_other_images_left_out(tmp_path):
    task = Task.from_folder(make_folder(tmp_path / "pets", classes=("ant", "bee", "cat", "dog")))
    found = task.regrouped({"insects": (0, 1), "cats": (2,)}, name="few")
    assert (found.name, found.class_names, len(found)) == ("few", ("insects", "cats"), 9)
    np.testing.assert_array_equal(found.labels, [0] * 6 + [1] * 3)
    assert found[6][0].tobytes() == task[6][0].tobytes()
    for groups in ({"a": (0, 1), "b": (1,)}, {"a": (0,), "b": (7,)}):
        with pytest.raises(TaskError, match="give each of its 4 classes once at most"):
            task.regrouped(groups)


def paint(folder, colour, count=3):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 8), colour).save(folder / f"{i}.png")


def test_splits_share_the_training_splits_class_numbers(tmp_path):
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        paint(tmp_path / "train" / name, colour)
    for name, colour in (("b", "green"), ("c", "blue")):
        paint(tmp_path / "val" / name, colour)
    paint(tmp_path / "test" / "c", "blue")
    train = Task.from_folder(tmp_path)
    val = Task.from_folder(tmp_path, split="val", classes_of=train)
    test = Task.from_folder(tmp_path, split="test", classes_of=train)  # one class is enough where nothing is learned
    for task in (val, test):
        assert task.class_names == ("a", "b", "c")
        colour_of = {
            int(label): train[int(np.flatnonzero(train.labels == label)[0])][0].getpixel((0, 0)) for label in range(3)
        }
        assert all(task[i][0].getpixel((0, 0)) == colour_of[task[i][1]] for i in range(len(task)))
    paint(tmp_path / "test" / "zebra", "white")
    with pytest.raises(TaskError, match=r"class 'zebra' of .*/test is not among the 3 classes of .*/train"):
        Task.from_folder(tmp_path, split="test", classes_of=train)


def test_arrays_and_datasets_take_the_class_numbers_of_another_task():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    train = Task.from_arrays(images, ["x", "y", "z", "x"])
    assert Task.from_arrays(images[:2], ["z", "y"], classes_of=train).labels.tolist() == [2, 1]
    held = [(Image.new("RGB", (4, 4)), 5), (Image.new("RGB", (4, 4)), 7)]
    base = Task.from_dataset([(Image.new("RGB", (4, 4)), label) for label in (3, 5, 7)])
    assert Task.from_dataset(held, classes_of=base).labels.tolist() == [1, 2]
    several = Task.from_arrays(images, [[1, 0], [0, 1], [1, 1], [0, 0]], class_names=["p", "q"])
    turned = Task.from_arrays(images, [[1, 0], [0, 1], [1, 1], [0, 0]], class_names=["q", "p"], classes_of=several)
    assert turned.labels.tolist() == [[0, 1], [1, 0], [1, 1], [0, 0]]


def test_linked_class_folders_are_followed_once(tmp_path):
    paint(tmp_path / "elsewhere" / "red ones", "red")
    paint(tmp_path / "task" / "green", "green")
    (tmp_path / "task" / "red").symlink_to(tmp_path / "elsewhere" / "red ones")
    (tmp_path / "task" / "green" / "loop").symlink_to(tmp_path / "task")
    task = Task.from_folder(tmp_path / "task")
    assert task.class_names == ("green", "red")
    assert len(task) == 6


def test_a_datasets_own_change_of_labels_counts():
    class Parity(list):
        def __init__(self):
            super().__init__((Image.new("RGB", (4, 4)), n % 2) for n in range(6))
            self.targets, self.classes, self.target_transform = list(range(6)), list("abcdef"), lambda n: n % 2

    task = Task.from_dataset(Parity())
    assert task.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert task.class_names == ("0", "1")


def test_a_task_of_one_class_is_no_task_to_embed_however_it_came_about():
    task = random_task(6, num_classes=3)
    alone = task.select(np.flatnonzero(task.labels == 1))
    assert len(alone) == 2  # it may be a test split
    assert len(task.select(np.flatnonzero(task.labels == 0).repeat(10)).without({3: "broken.png"})) == 19
    with pytest.raises(TaskError, match="only one class"):
        alone.learnable()
    with pytest.raises(TaskError, match="only one class"):
        embed(alone, load_probe())
    with pytest.raises(TaskError, match="only one class"):
        Task.from_arrays(np.zeros((11, 8, 8, 3), np.uint8), [0] * 10 + [1]).without({10: "broken.png"})


def test_images_are_selected_by_number_or_by_a_truth_value_for_each_and_by_nothing_else():
    task = random_task(6)
    chosen = task.select(task.labels == 1)
    assert set(chosen.labels) == {1}
    assert len(chosen) == (task.labels == 1).sum()
    np.testing.assert_array_equal(task.select([-1, 0]).labels, task.labels[[-1, 0]])
    with pytest.raises(TaskError, match="holds no images"):
        task.select([])
    for wrong in ([True, False], [0.5], [[0]], ["a"]):
        with pytest.raises(TaskError, match="name no images"):
            task.select(wrong)
    with pytest.raises(TaskError, match="none of number 6"):
        task.select([0, 6])


def test_arrays_of_0_and_1_are_refused_where_they_would_be_black():
    pixels = np.random.default_rng(0).integers(0, 2, (4, 5, 6))
    with pytest.raises(TaskError, match="no pixel of all images exceeds 1 of 255"):
        Task.from_arrays(pixels, [0, 1, 0, 1])
    assert Task.from_arrays(pixels.astype(bool), [0, 1, 0, 1]).images(0).getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize("several", [False, True])
def test_splits_are_of_the_training_images_classes_by_their_names(several):
    pixels = np.zeros((4, 5, 6), np.uint8)
    rows = np.eye(3, dtype=int)[[0, 1, 2, 0]]
    train = Task.from_arrays(pixels, rows if several else [0, 1, 2, 0], class_names=["a", "b", "c"])
    reversed_ = Task.from_arrays(pixels, rows[:, ::-1] if several else [2, 1, 0, 2], class_names=["c", "b", "a"])
    few = Task.from_arrays(pixels, rows[:, 1:] if several else [0, 1, 1, 0], class_names=["b", "c"])
    splits = Splits(train, validation=few, test=reversed_)
    np.testing.assert_array_equal(splits.test.labels, train.labels)
    assert splits.validation.class_names == splits.test.class_names == train.class_names
    with pytest.raises(TaskError, match="'a' of arrays is not among the 2 classes"):
        Splits(few, test=train.select([0, 1]))
    other = Task.from_arrays(pixels, [0, 1, 2, 0] if several else rows, class_names=["a", "b", "c"])
    with pytest.raises(TaskError, match="must both have one label an image, or both several"):
        Splits(train, test=other)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(TaskError, match="two classes of task 'arrays' are called 'crane'"):
        Task.from_arrays(np.zeros((4, 5, 6), np.uint8), [0, 1, 0, 1], class_names=["crane", "crane"])
