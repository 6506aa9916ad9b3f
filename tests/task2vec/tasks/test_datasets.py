"""Class names and labels through torch's wrappers, and lists of classes."""

import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from adapters.data import Batches
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


class Parity(ImageFolder):
    """Its items say whether the class that it stores is odd."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label % 2


class Raw(list):
    """Its items have 7 for the class that it stores as 2."""

    labels = (0, 1, 2, 0, 1, 2)

    def __init__(self, root):
        super().__init__((Image.new("RGB", (4, 4)), 7 if label == 2 else label) for label in self.labels)


@pytest.mark.parametrize(
    ("dataset", "labels", "names"),
    [
        (Parity, [0, 0, 0, 1, 1, 1, 0, 0, 0], ("0", "1")),
        (lambda root: Subset(Parity(root), [0, 4, 8]), [0, 1, 0], ("0", "1")),
        (Raw, [0, 1, 7, 0, 1, 7], ("0", "1", "7")),
        (ImageFolder, [0, 0, 0, 1, 1, 1, 2, 2, 2], ("ant", "bee", "cat")),
    ],
)
def test_the_labels_are_those_of_the_items(dataset, labels, names, tmp_path):
    found = dataset(make_folder(tmp_path / "pets", classes=("ant", "bee", "cat")))
    task = Task.from_dataset(found)
    assert task.class_names == names
    assert [names.index(str(label)) if names[0] == "0" else label for label in labels] == task.labels.tolist()
    assert Batches(found, lambda image: torch.zeros(3, 4, 4)).labels().tolist() == labels
