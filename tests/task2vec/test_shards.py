"""A task embedded in shards, beside the same task in one piece."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from task2vec import Task, Task2VecError, UnreadableImageError, embed, load_probe
from task2vec.fisher import ESTIMATORS, MEANS
from task2vec.plan import Plan
from task2vec.shards import add_up, features_of, join, share_of, split
from tests.conftest import random_task


def in_shards(task, probe, images, **settings):
    plan = Plan.of(task, **settings)
    joined = join(plan, [features_of(plan, probe, numbers) for numbers in split(plan, images)])
    return add_up(plan, probe, joined, [share_of(plan, probe, joined.classifier, *shard) for shard in joined.shards])


def assert_same(sharded, whole):
    np.testing.assert_allclose(sharded.fisher, whole.fisher, rtol=1e-4)
    np.testing.assert_allclose(sharded.classifier.weight, whole.classifier.weight, rtol=1e-4, atol=1e-6)
    assert sharded.classifier.cross_validated == whole.classifier.cross_validated
    for name in (
        "layers",
        "classes",
        "num_samples",
        "num_images",
        "probe",
        "method",
        "unmeasured",
        "unreadable",
        "task",
    ):
        assert getattr(sharded, name) == getattr(whole, name), name


@pytest.fixture(scope="module")
def probe():
    return load_probe()


@pytest.mark.parametrize("method", sorted(MEANS))
def test_the_shares_of_the_shards_add_up_to_the_whole(method, probe):
    """With drawn labels as with sums over them: each shard takes its own of what is drawn for all."""
    task = random_task(50, 3)
    settings = {"method": method, "draws": 2, "seed": 3}
    assert_same(in_shards(task, probe, 13, **settings), embed(task, probe, **settings))


def test_several_labels_an_image_and_a_drawn_sample_are_sharded_the_same(probe):
    labels = np.random.default_rng(0).integers(2, size=(40, 3))
    pixels = np.random.default_rng(1).integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    task = Task.from_arrays(pixels, labels)
    assert_same(in_shards(task, probe, 7, max_samples=30), embed(task, probe, max_samples=30))


def test_shards_of_one_class_alone_add_up_too(probe):
    """Sorted by class, as a folder lists them, most shards have nothing to tell apart by themselves."""
    task = random_task(48, 3)
    task = task.select(np.argsort(task.labels, kind="stable"))
    assert_same(in_shards(task, probe, 8), embed(task, probe))


def spoiled(folder, count, bad):
    """A folder of two classes, in which some files are no images."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("dark" if number % 2 else "light")
        place.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        pixels = generator.integers(0, 128, (32, 32, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
        (place / f"{number:03}.png").write_bytes(b"no image" if number in bad else buffer.getvalue())
    return Task.from_folder(folder)


def test_unreadable_images_are_left_out_as_of_the_whole_even_if_a_shard_has_no_other(tmp_path, probe):
    task = spoiled(tmp_path / "spoiled", 60, bad=(1, 3, 5, 10))  # the first three stand beside each other
    whole = embed(task, probe)
    assert len(whole.unreadable) == 4
    assert_same(in_shards(task, probe, 3), whole)
    with pytest.raises(UnreadableImageError, match="7 of 20"):
        in_shards(spoiled(tmp_path / "more", 20, bad=range(7)), probe, 5)


def test_an_estimator_that_is_no_mean_is_refused(probe):
    for method in set(ESTIMATORS) - MEANS:
        with pytest.raises(Task2VecError, match=f"{method} is no single mean"):
            split(Plan.of(random_task(), method), 10)


def test_a_missing_share_is_noticed(probe):
    plan = Plan.of(random_task(20))
    joined = join(plan, [features_of(plan, probe, numbers) for numbers in split(plan, 5)])
    shares = [share_of(plan, probe, joined.classifier, *shard) for shard in joined.shards]
    with pytest.raises(Task2VecError, match="not those of its shards"):
        add_up(plan, probe, joined, shares[1:])


def test_double_precision_leaves_no_difference_but_the_order_of_sums(probe):
    task = random_task(30, 3)
    whole, sharded = embed(task, probe, dtype=torch.float64), in_shards(task, probe, 7, dtype=torch.float64)
    np.testing.assert_allclose(sharded.fisher, whole.fisher, rtol=2e-7)
