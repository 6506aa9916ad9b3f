"""Class names and labels through torch's wrappers, and lists of classes."""

import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from task2vec import Task, TaskError
from tests.task2vec.tasks.folders import make_folder


def test_a_subset_keeps_class_names_and_a_concatenation_those_that_agree(tmp_path):
    base = ImageFolder(make_folder(tmp_path / "pets", classes=("ant", "bee", "cat")))
    part = Task.from_dataset(Subset(Subset(base, range(3, 9)), [0, 1, 5]))
    assert (part.class_names, part.labels.tolist()) == (("bee", "cat"), [0, 0, 1])
    both = ConcatDataset([Subset(base, [0, 8]), base])
    assert Task.from_dataset(both).class_names == ("ant", "bee", "cat")
    assert Task.from_dataset(both).labels.tolist() == [0, 2] + [0] * 3 + [1] * 3 + [2] * 3
    other = ImageFolder(make_folder(tmp_path / "others", classes=("ant", "dog")))
    with pytest.raises(TaskError, match=r"different classes, \(ant, bee, cat\) and \(ant, dog\)"):
        Task.from_dataset(ConcatDataset([base, other]))


def test_labels_of_a_subset_are_found_without_decoding_an_image(tmp_path):
    base = ImageFolder(make_folder(tmp_path / "pets"), loader=lambda path: opened.append(path) or Image.open(path))
    opened = []
    assert Task.from_dataset(Subset(base, [0, 4, 5])).labels.tolist() == [0, 1, 1]
    assert len(opened) == 1  # to see what its items are


def test_lists_of_classes_make_a_multi_label_task():
    image = Image.new("RGB", (4, 4))
    task = Task.from_dataset([(image, ["red", "round"]), (image, []), (image, ["red"])])
    assert (task.class_names, task.labels.tolist()) == (("red", "round"), [[1, 1], [0, 0], [1, 0]])


def test_splits_of_a_dataset_are_asked_for_one():
    with pytest.raises(TaskError, match=r"a dict of splits; give one of them, such as dataset\['train'\]"):
        Task.from_dataset({"train": [], "test": []})
