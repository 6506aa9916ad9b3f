"""The shipped library and the chain on real data."""

import numpy as np
import pytest

import task2vec
from adapters import DEFAULT_BACKBONE
from selection import load_library, recommend
from selection.cli.demo import digits
from task2vec import Task


@pytest.fixture(scope="module")
def library():
    return load_library()


@pytest.fixture(scope="module")
def probe():
    return task2vec.load_probe()


def test_the_library_was_made_with_the_bundled_probe_and_backbone(library, probe):
    import timm

    from adapters import backbone_fingerprint

    assert len(library.embeddings(probe.fingerprint, "montecarlo")) == len(library) >= 22
    fingerprint = backbone_fingerprint(timm.create_model(DEFAULT_BACKBONE, pretrained=True))
    trials = [t for name in library.names() for t in library.task(name).trials]
    assert {(t.backbone, t.backbone_fingerprint) for t in trials} == {(DEFAULT_BACKBONE, fingerprint)}


def test_at_least_twelve_tasks_have_trials_of_all_four_methods_at_two_settings(library):
    methods = ("linear", "ssf", "lora", "adaptformer")
    tried = [library.task(name).trials for name in library.names()]
    assert all(0 < t.score <= 1 and t.seconds > 0 for trials in tried for t in trials)
    settings = [{m: {t.config for t in trials if t.config.method == m} for m in methods} for trials in tried]
    assert sum(all(len(configs) >= 2 for configs in by_method.values()) for by_method in settings) >= 12


def test_the_digits_are_nearest_to_mnist(library, probe):
    target = task2vec.embed(digits(), probe, max_samples=1000)
    assert library.nearest(target, 1)[0].name == "mnist"
    assert recommend(target, library).evidence[0].task in ("mnist", *[n.name for n in library.nearest(target, 8)])


def test_the_shipped_reference_is_the_mean_of_the_shipped_embeddings(library, probe):
    from task2vec.distances.reference import shipped_reference

    expected = task2vec.mean_log_embedding(library.embeddings(probe.fingerprint, "montecarlo"))
    np.testing.assert_allclose(shipped_reference(probe.fingerprint), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["mnist", "tin_birds", "magnetic_tile"])
def test_embedding_a_real_task_again_gives_the_shipped_embedding(library, probe, datasets, name):
    shipped = next(e for e in library.embeddings(probe.fingerprint) if e.task == name)
    again = task2vec.embed(Task.from_folder(datasets / f"{name}.zip"), probe)
    assert again.classes == shipped.classes
    # Other machines round differently, which may turn a few of the drawn labels.
    assert np.corrcoef(np.log(again.fisher + 1e-12), np.log(shipped.fisher + 1e-12))[0, 1] > 0.99


def test_the_other_images_of_most_real_tasks_find_them_in_the_library(library, probe, datasets):
    names = ["mnist", "smiles", "coil20", "chest_xray", "fruit_shapes", "gtsrb", "sign_digits", "dogs_cats"]
    found = []
    for name in names:
        task = Task.from_folder(datasets / f"{name}.zip", split="test")
        found.append(library.nearest(task2vec.embed(task, probe, max_samples=400), 1)[0].name)
    # dogs_cats is taken for natural_images, which has dogs and cats among its classes.
    assert sum(f == name for f, name in zip(found, names, strict=True)) >= 7, found
