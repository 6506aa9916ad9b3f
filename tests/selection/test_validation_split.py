"""What is set aside to watch over a training."""

import pytest

from selection.evidence.validation_split import VALIDATION_SHARE, split_sizes
from task2vec import Splits
from tests.conftest import random_task


@pytest.mark.parametrize(("num_classes", "per_class"), [(10, 3), (10, 4), (10, 7), (3, 4), (2, 20)])
def test_sizes_are_those_of_the_split_that_training_makes_whatever_the_seed(num_classes, per_class):
    task = random_task(num_classes * per_class, num_classes, size=4)
    for seed in range(3):
        assert split_sizes(Splits(task)) == tuple(map(len, task.split(VALIDATION_SHARE, seed=seed)))


def test_validation_images_of_ones_own_are_all_there_are():
    train, validation = random_task(20, size=4).split(0.3)
    assert split_sizes(Splits(train, validation)) == (len(train), len(validation))
