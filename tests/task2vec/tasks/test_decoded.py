"""Images decoded once: for every network the very tensors of the direct way, wherever they are kept."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform

from adapters.data import transform_of
from task2vec import Task, embed, load_probe
from task2vec.tasks import decoded, task
from task2vec.tasks.room import Room
from tests.conftest import plain_probe
from tests.task2vec.tasks.folders import damage, photographs, zip_of

TRANSFORMS = {
    "probe": lambda: load_probe().transform,
    "backbone": lambda: transform_of(timm.create_model("vit_tiny_patch16_224")),
    "squashed": lambda: create_transform((3, 48, 48), crop_mode="squash", crop_pct=0.9),
    "bordered": lambda: create_transform((3, 48, 48), crop_mode="border"),
    "oblong": lambda: create_transform((3, 48, 32), crop_pct=0.9),
    "opaque": lambda: plain_probe(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Linear(2, 2)), "1").transform,
}
ROOMS = {
    "memory": Room(2**30, 0),
    "a file": Room(0, 2**30),
    "half memory, half file": Room(60_000, 2**30),
    "memory, then nowhere": Room(60_000, 0),
    "nowhere": Room(0, 0),
}


def tensors(task, transform, **settings):
    return torch.cat([batch for _, batch, _ in task.batches(transform, 5, **settings)])


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("chosen", [("probe", "backbone"), ("squashed",), ("bordered", "oblong", "opaque"), ()])
def test_every_network_gets_the_tensors_of_the_direct_way_bit_by_bit(tmp_path, monkeypatch, room, chosen):
    monkeypatch.setattr(task, "room_for", lambda share: ROOMS[room])
    direct = Task.from_folder(photographs(tmp_path / "pets"))
    kept = direct.decoded(*(TRANSFORMS[name]() for name in chosen))
    for name in TRANSFORMS:  # those it was not decoded for, too
        transform = TRANSFORMS[name]()
        expected = torch.stack([transform(direct[i][0]) for i in range(len(direct))])
        assert torch.equal(tensors(kept, transform), expected)
    np.testing.assert_array_equal(np.asarray(kept[3][0]), np.asarray(direct[3][0]))
    assert kept.in_memory == (room not in ("nowhere", "memory, then nowhere"))


def test_each_file_is_opened_once_for_probe_and_backbone_whatever_becomes_of_the_task(tmp_path, monkeypatch):
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.suffix) or read(path))
    probe, backbone = load_probe(), TRANSFORMS["backbone"]()
    kept = Task.from_folder(photographs(tmp_path / "pets")).decoded(probe.transform, backbone, workers=0)
    assert opened.count(".jpg") == 12
    embed(kept, probe)
    first, second = kept.split(0.3)
    for part in (first, second, first.subsample(4)):
        tensors(part, backbone)
        assert part.decoded(backbone) is part
    assert opened.count(".jpg") == 12


def test_small_images_are_kept_as_they_are_and_large_ones_resized(tmp_path):
    small = Task.from_folder(photographs(tmp_path / "small", size=(20, 20)))
    large = Task.from_folder(photographs(tmp_path / "large", size=(600, 400), per_class=2))
    transform = TRANSFORMS["backbone"]()
    assert (small.decoded(transform).images.originals.addresses >= 0).all()
    kept = large.decoded(transform).images
    assert (kept.originals.addresses == decoded.NOT_KEPT).all()
    (places,) = kept.sizes.values()
    assert places.shapes.min() == 248


def test_the_file_is_removed_with_the_task_and_not_by_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(task, "room_for", lambda share: ROOMS["a file"])
    transform = TRANSFORMS["probe"]()
    kept = Task.from_folder(photographs(tmp_path / "pets")).decoded(transform)
    expected = tensors(kept, transform)
    assert torch.equal(tensors(kept, transform, workers=2), expected)
    assert torch.equal(tensors(pickle.loads(pickle.dumps(kept)), transform), expected)
    assert len(list(tmp_path.glob("task2vec-*"))) == 1
    del kept
    assert list(tmp_path.glob("task2vec-*")) == []


def test_unreadable_images_are_dropped_and_named_when_decoding_in_workers_too(tmp_path):
    folder = photographs(tmp_path / "pets", per_class=10)
    damage(folder / "cat" / "3.jpg")
    for workers in (0, 2):
        kept = Task.from_folder(folder).decoded(TRANSFORMS["probe"](), workers=workers)
        assert (len(kept), kept.labels.tolist()) == (19, [0] * 9 + [1] * 10)
        assert "cat/3.jpg" in kept.unreadable[0]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["folder", "zip", "decoded"])
def test_tasks_are_read_in_workers_as_in_this_process(tmp_path, kind, method):
    from torch.utils.data import DataLoader

    folder = photographs(tmp_path / "pets")
    path = zip_of(folder, tmp_path / "pets.zip") if kind == "zip" else folder
    read = Task.from_folder(path)
    read = read.decoded(TRANSFORMS["probe"]()) if kind == "decoded" else read
    expected = [np.asarray(read[i][0]) for i in range(len(read))]  # a zip is open here before workers start
    loader = DataLoader(read, batch_size=3, num_workers=2, collate_fn=list, multiprocessing_context=method)
    found = [item for batch in loader for item in batch]
    assert [label for _, label in found] == read.labels.tolist()
    for (image, _), pixels in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_images_in_memory_are_not_kept_twice():
    pixels = np.random.default_rng(0).integers(0, 255, (6, 20, 20, 3), np.uint8)
    kept = Task.from_arrays(pixels, np.arange(6) % 2).decoded(TRANSFORMS["backbone"]())
    assert kept.images.store.in_memory == 0
    np.testing.assert_array_equal(np.asarray(kept[2][0]), pixels[2])


@pytest.mark.parametrize("room", ["memory", "a file", "half memory, half file"])
def test_on_another_machine_what_lay_in_a_file_is_read_from_the_source_again(tmp_path, monkeypatch, room):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(task, "room_for", lambda share: ROOMS[room])
    transform = TRANSFORMS["probe"]()
    kept = Task.from_folder(photographs(tmp_path / "pets")).decoded(transform)
    expected, sent = tensors(kept, transform), pickle.dumps(kept)
    del kept
    assert list(tmp_path.glob("task2vec-*")) == []
    assert torch.equal(tensors(pickle.loads(sent), transform), expected)
    assert len(sent) < 10**6  # memory that nothing was put into is not sent
