import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from task2vec import EmbeddingError, ProbeMismatchError, Task, Task2VecError, TaskEmbedding, TaskError, distance, embed
from task2vec.embedding import Layer, embedding_parts, of_commonest_kind
from tests.conftest import plain_probe, random_task


def small_probe(seed=0):
    torch.manual_seed(seed)
    return plain_probe(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5400, 4)), "3")


@pytest.fixture(scope="module")
def embedding():
    return embed(random_task(), small_probe())


def test_an_embedding_says_what_it_is(embedding):
    probe = small_probe()
    assert embedding.fisher.dtype == np.float32
    assert embedding.fisher.shape == (6,)
    assert embedding.layers == (("0", 6),)
    assert (embedding.probe, embedding.probe_name) == (probe.fingerprint, "Sequential")
    assert (embedding.method, embedding.num_samples, embedding.task) == ("montecarlo", 12, "noise")
    assert embedding.classes == ("0", "1", "2")
    assert embedding.norm == pytest.approx(embedding.fisher.sum())
    assert embedding.classifier.weight.shape == (3, 5400)


def test_only_embeddings_of_one_probe_estimator_and_number_of_filters_are_of_one_kind(embedding):
    fewer = dataclasses.replace(embedding, fisher=embedding.fisher[:4], layers=(Layer("0", 4),))
    others = [
        fewer,
        dataclasses.replace(embedding, probe="0" * 32),
        dataclasses.replace(embedding, method="empirical"),
    ]
    assert len({e.kind for e in (embedding, *others)}) == 4
    found = of_commonest_kind([fewer, embedding, *others[1:], embedding])
    assert [e is embedding for e in found] == [True, True]
    assert of_commonest_kind([]) == []


def test_saving_and_loading_keeps_everything(embedding, tmp_path):
    embedding.save(tmp_path / "sub" / "noise.safetensors")
    loaded = TaskEmbedding.load(tmp_path / "sub" / "noise.safetensors")
    tensors, facts = embedding_parts(embedding)
    loaded_tensors, loaded_facts = embedding_parts(loaded)
    assert json.dumps(facts) == json.dumps(loaded_facts)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, loaded_tensors[name])
    assert list((tmp_path / "sub").iterdir()) == [tmp_path / "sub" / "noise.safetensors"]


def test_what_the_variational_estimator_reached_is_kept(tmp_path):
    found = embed(random_task(), small_probe(), "variational")
    found.save(tmp_path / "variational.safetensors")
    loaded = TaskEmbedding.load(tmp_path / "variational.safetensors")
    assert loaded.convergence == found.convergence
    np.testing.assert_array_equal(loaded.trivial, found.trivial)
    other = embed(random_task(seed=1), small_probe(), "variational")
    vectors = np.stack([found.fisher, other.fisher])
    expected = distance(*vectors, "asymmetric", trivial=found.trivial)
    assert distance(loaded, other, "asymmetric") == pytest.approx(expected)
    assert distance(loaded, other, "asymmetric") != pytest.approx(distance(*vectors, "asymmetric"))


def test_files_that_are_no_embedding_are_refused_by_name(embedding, tmp_path):
    (tmp_path / "text").write_text("hello")
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    embedding.save(tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-50])
    for name, message in (
        ("nowhere", "there is no embedding at"),
        ("text", "is not a task embedding"),
        ("other.safetensors", "is not a task embedding"),
        ("cut.safetensors", "is not a task embedding"),
    ):
        with pytest.raises(EmbeddingError, match=f"{message}.*{name}|{name}.*{message}"):
            TaskEmbedding.load(tmp_path / name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_an_embedding_with_impossible_numbers_is_refused_on_loading(embedding, tmp_path, value):
    tensors, facts = embedding_parts(embedding)
    tensors["fisher"] = tensors["fisher"].copy()
    tensors["fisher"][2] = value
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"task2vec": json.dumps(facts)})
    with pytest.raises(EmbeddingError, match="at entry 2"):
        TaskEmbedding.load(tmp_path / "bad.safetensors")


def test_a_newer_format_is_refused(embedding, tmp_path):
    tensors, facts = embedding_parts(embedding)
    save_file(tensors, tmp_path / "new.safetensors", metadata={"task2vec": json.dumps(facts | {"format_version": 99})})
    with pytest.raises(EmbeddingError, match="format version 99"):
        TaskEmbedding.load(tmp_path / "new.safetensors")


def test_embeddings_of_different_probes_have_no_distance(embedding):
    other = embed(random_task(), small_probe(seed=1))
    with pytest.raises(ProbeMismatchError, match="embed both with the same probe"):
        distance(embedding, other)


def test_a_task_is_nearer_to_itself_than_to_another(embedding):
    other = embed(random_task(num_classes=2, seed=5), small_probe())
    assert distance(embedding, embedding) == pytest.approx(0, abs=1e-6)
    assert distance(embedding, other) > 1e-4


def test_a_class_with_one_image_is_embedded_like_any_other():
    task = random_task().select([0, 1, 3, 4, 6, 7, 2])  # class 2 keeps one image
    assert np.bincount(task.labels).tolist() == [3, 3, 1]
    assert np.isfinite(embed(task, small_probe()).fisher).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "guess"}, "no estimator 'guess'; choose from empirical, exact, hutchinson"),
        ({"draws": 0}, "draws=0"),
        ({"l2": 0}, "l2=0"),
        ({"max_samples": 2}, "cannot show the 3 classes"),
        ({"max_samples": -3}, "max_samples=-3 must be at least 2"),
        ({"max_samples": 1}, "max_samples=1 must be at least 2"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(settings, message):
    with pytest.raises(Task2VecError, match=message):
        embed(random_task(), small_probe(), **settings)


def test_a_sample_of_equal_labels_is_blamed_on_its_size_and_not_on_the_images():
    labels = np.zeros((12, 3), int)
    labels[0] = 1
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    task = Task.from_arrays(images, labels, name="rare")
    with pytest.raises(TaskError, match="the 2 images drawn of 'rare' have the same labels; raise max_samples"):
        embed(task, small_probe(), max_samples=2)
    for count in (-3, 2.5, float("nan")):
        with pytest.raises(TaskError, match=f"{count} images cannot be drawn from 'rare'"):
            task.subsample(count)
    assert task.subsample(float("inf")) is task


def test_unreadable_images_are_left_out_and_named_on_the_embedding(tmp_path):
    from tests.task2vec.tasks.folders import damage, make_folder

    folder = make_folder(tmp_path / "pets", per_class=10)
    damage(folder / "cat" / "3.png")
    from task2vec import Task

    found = embed(Task.from_folder(folder), small_probe())
    assert found.num_samples == 19
    assert "cat/3.png" in found.unreadable[0]


def test_images_that_look_all_the_same_are_no_task_to_embed():
    black = Task.from_arrays(np.zeros((8, 32, 32, 3), np.uint8), np.arange(8) % 2, name="black")
    with pytest.raises(EmbeddingError, match=r"the Fisher of 'black' is 0 everywhere: all of its images look the same"):
        embed(black, small_probe())
