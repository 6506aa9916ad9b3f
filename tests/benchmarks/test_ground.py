"""The drawn tasks show what their labels say, judged from the pixels alone."""

import colorsys

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.ground.derived import CHANGES, derive
from benchmarks.ground.structured import HUES, IMAGE_SETS, SIDE, draw
from benchmarks.ground.tasks import SPLIT_BY_ORIGIN, balanced, ground
from task2vec import Task
from tests.conftest import random_task


def saturation(image):
    """How far each pixel is from grey, `(SIDE, SIDE)`, in [0, 1]; the backgrounds are muted."""
    smooth = ndimage.uniform_filter(image.astype(float), (3, 3, 1)) / 255
    return smooth.max(axis=2) - smooth.min(axis=2)


def hue_of(image, mask):
    red, green, blue = image[mask].mean(axis=0) / 255
    return colorsys.rgb_to_hsv(red, green, blue)[0]


def nearest_hue(hue):
    return min(HUES, key=lambda name: min(abs(HUES[name] - hue), 1 - abs(HUES[name] - hue)))


def objects(image, threshold=0.45):
    """Masks of the coloured regions, largest first."""
    regions, count = ndimage.label(saturation(image) > threshold)
    masks = [regions == n for n in range(1, count + 1)]
    return sorted((m for m in masks if m.sum() >= 6), key=lambda m: -m.sum())


def share_right(name, judge, count=60):
    """For how many images what is read off the pixels is what the labels say."""
    drawn = draw(name, count, seed=5)
    return np.mean([judge(drawn.images[i], {k: int(v[i]) for k, v in drawn.labels.items()}) for i in range(count)])


def test_a_sprite_is_where_and_what_colour_its_labels_say():
    def judge(image, labels):
        (largest, *_) = objects(image) or [np.ones((SIDE, SIDE), bool)]
        row, column = (min(3, max(0, int((c / SIDE - 0.08) / 0.21))) for c in ndimage.center_of_mass(largest))
        return labels["where"] == 4 * row + column and list(HUES)[labels["colour"]] == nearest_hue(
            hue_of(image, largest)
        )

    assert share_right("sprites", judge) > 0.75  # the smallest melt into the background here


def test_larger_sprites_cover_more_pixels():
    drawn = draw("sprites", 200, seed=5)
    covered = np.array([sum(m.sum() for m in objects(image)[:1]) for image in drawn.images])
    means = [covered[drawn.labels["size"] == size].mean() for size in range(4)]
    assert means == sorted(means)
    assert means[3] > 3 * means[0]


def test_scenes_show_as_many_objects_as_their_labels_say():
    def judge(image, labels):
        return abs(len(objects(image, 0.4)) - (labels["count"] + 2)) <= 1

    assert share_right("scenes", judge) > 0.8


def test_the_dot_is_left_or_right_of_the_square_as_labelled():
    def judge(image, labels):
        hues = {nearest_hue(hue_of(image, mask)): mask for mask in reversed(objects(image))}
        if not {"red", "blue"} <= set(hues):
            return False
        dot, square = (ndimage.center_of_mass(hues[name])[1] for name in ("red", "blue"))
        return (dot < square) == (labels["left_of"] == 0)

    assert share_right("relations", judge) > 0.9


def test_symmetric_patterns_mirror_themselves_and_others_do_not():
    drawn = draw("symmetry", 80, seed=5)
    upright, level = [], []
    for image in drawn.images:
        coloured = saturation(image)
        upright.append(np.corrcoef(coloured.ravel(), coloured[:, ::-1].ravel())[0, 1])
        level.append(np.corrcoef(coloured.ravel(), coloured[::-1].ravel())[0, 1])
    axis = drawn.labels["axis"]
    for found, has_it in ((np.array(upright), np.isin(axis, (1, 3))), (np.array(level), np.isin(axis, (2, 3)))):
        assert np.mean((found > 0.5) == has_it) > 0.95


def test_gratings_have_the_frequency_and_orientation_of_their_labels():
    drawn = draw("gratings", 120, seed=5)
    cycles, turns = [], []
    for image in drawn.images:
        wave = image.astype(float).sum(axis=2)
        spectrum = np.abs(np.fft.rfft2((wave - wave.mean()) * np.outer(np.hanning(SIDE), np.hanning(SIDE))))
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        y = y - SIDE if y > SIDE // 2 else y
        cycles.append(np.hypot(x, y))
        turns.append(np.degrees(np.arctan2(y, x)) % 180)
    expected = 2.2 * 1.4 ** drawn.labels["frequency"]
    assert np.mean(np.abs(np.log(np.array(cycles) / expected)) < 0.5) > 0.9
    off = (np.array(turns) - 30 * drawn.labels["orientation"] + 90) % 180 - 90
    fine = drawn.labels["frequency"] >= 2  # a coarse wave has few directions in a spectrum
    assert np.mean(np.abs(off[fine]) < 20) > 0.9


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_images_are_fixed_by_name_and_seed_and_every_class_occurs(name):
    few, again, other = draw(name, 5, 0), draw.__wrapped__(name, 8, 0), draw(name, 5, 1)
    np.testing.assert_array_equal(few.images, again.images[:5])
    assert not np.array_equal(few.images, other.images)
    many = draw(name, 150, 0)
    for label, classes in many.classes.items():
        counts = np.bincount(many.labels[label], minlength=len(classes))
        assert counts.min() > 0.3 * 150 / len(classes)


@pytest.mark.parametrize("label_set", CHANGES)
def test_derived_labels_are_balanced_and_know_nothing_of_the_photographs_classes(label_set):
    task = random_task(120, 3)
    made = derive(task, label_set)
    counts = np.bincount(made.labels)
    assert counts.max() - counts.min() <= 1
    assert len(made.class_names) == len(counts)
    pixels = [np.asarray(made[i][0]) for i in range(6)]
    for image, again in zip(pixels, [np.asarray(made[i][0]) for i in range(6)], strict=True):
        np.testing.assert_array_equal(image, again)
    unchanged = [i for i in range(120) if made.labels[i] == 0][:3]
    if label_set in ("rotation", "mirrored", "jigsaw", "blur"):
        for i in unchanged:
            np.testing.assert_array_equal(np.asarray(made[i][0]), np.asarray(task[i][0]))


def test_training_validation_and_test_images_of_a_draw_are_different_ones(datasets):
    tasks = {task.name: task for task in ground(datasets)}
    assert len(tasks) >= 80
    groups = [task.group for task in tasks.values()]
    assert all(groups.count(group) >= 15 for group in ("natural", "specialised", "structured"))
    for name in ("trees5", "potato_leaf", "cifar10: rotation"):
        parts = tasks[name].draw(100, seed=1)
        assert len(parts[0]) + len(parts[1]) == 125
        assert abs(len(parts[0]) - 100) <= 3  # a fifth of every class, rounded
        seen = [{np.asarray(part[i][0]).tobytes() for i in range(len(part))} for part in parts]
        assert not seen[0] & seen[2]
        assert not seen[0] & seen[1]
        test = Task.from_folder(datasets / f"{tasks[name].base}.zip", split="test")
        assert (len(parts[2]) > len(test)) == (tasks[name].base not in SPLIT_BY_ORIGIN and len(test) < 1000)


def test_a_balanced_draw_has_equally_many_of_each_class():
    task = Task.from_arrays(np.zeros((100, 4, 4, 3), np.uint8), np.repeat([0, 1, 2], [70, 20, 10]))
    counts = np.bincount(task.labels[balanced(task, 45, seed=3)])
    assert sorted(counts) == [10, 17, 18]
    assert len(balanced(task, 500, seed=3)) == 100
