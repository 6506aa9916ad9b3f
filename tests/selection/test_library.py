"""The shipped library and the chain on real data."""

import numpy as np
import pytest

import task2vec
from adapters import DEFAULT_BACKBONE, BackboneId
from selection import TaskFilter, load_backbone, load_library, recommend
from selection.cli.demo import digits
from selection.evidence.library import HERE, SIZE_TAGS
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

    assert len(library.embeddings(probe.fingerprint, "montecarlo")) == len(library) >= 60
    fingerprint = backbone_fingerprint(timm.create_model(DEFAULT_BACKBONE, pretrained=True))
    trials = [t for name in library.names() for t in library.task(name).trials]
    bundled = {t.backbone.fingerprint for t in trials if t.backbone.architecture == DEFAULT_BACKBONE}
    assert bundled == {fingerprint}


def test_trials_on_the_pretrained_backbone_are_those_of_its_checkpoint_and_come_with_facts(library, pretrained_vit):
    tasks = list(library.tasks(TaskFilter(trials_on="vit_tiny_patch16_224")))
    model = load_backbone("vit_tiny_patch16_224", pretrained_vit)
    assert tasks
    for task in tasks:
        (facts,) = task.facts
        assert facts.backbone == BackboneId.of_model(model)
        assert {t.backbone for t in task.trials if t.backbone.architecture != DEFAULT_BACKBONE} == {facts.backbone}
        assert {"natural", "specialised", "structured"} & set(task.tags)


def test_sixty_tasks_have_twenty_configurations_and_a_source(library):
    tasks = list(library.tasks())
    assert all(0 < t.score <= 1 and t.seconds > 0 for task in tasks for t in task.trials)
    assert sum(len({t.config for t in task.trials}) >= 20 for task in tasks) >= 60
    assert {task.source for task in tasks if task.name.startswith("tin_")} == {"tin"}
    assert library.task("mnist@100").source == library.task("mnist.half1@100").source == "mnist"


def test_the_library_is_small_and_holds_numbers_only():
    files = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".py", ".json", ".jsonl", ".csv", ".md", ".safetensors"}


def test_mnist_is_among_the_nearest_tasks_of_the_digits(library, probe):
    """The other two are small grey pictures as well; the three lie within 0.03 of each other."""
    target = task2vec.embed(digits(), probe, max_samples=1000)
    nearest = library.nearest(target, 3, which=TaskFilter(without_tags=SIZE_TAGS))
    assert "mnist" in [n.name for n in nearest]
    assert "mnist" in [evidence.task for evidence in recommend(target, library).evidence]


def test_the_shipped_reference_is_the_mean_of_the_shipped_embeddings(library, probe):
    from task2vec.distances.reference import shipped_reference

    whole = [e for e in library.embeddings(probe.fingerprint, "montecarlo") if "@" not in e.task]
    expected = task2vec.mean_log_embedding(whole)
    np.testing.assert_allclose(shipped_reference(probe.fingerprint, len(expected)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["magnetic_tile", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mnist", "tin_birds"))]
)
def test_embedding_a_real_task_again_gives_the_shipped_embedding(library, probe, datasets, name):
    shipped = next(e for e in library.embeddings(probe.fingerprint) if e.task == name)
    again = task2vec.embed(Task.from_folder(datasets / f"{name}.zip"), probe)
    assert again.classes == shipped.classes
    # Other machines round differently, which may turn a few of the drawn labels.
    assert np.corrcoef(np.log(again.fisher + 1e-12), np.log(shipped.fisher + 1e-12))[0, 1] > 0.99


@pytest.mark.slow
def test_the_other_images_of_most_real_tasks_find_them_in_the_library(library, probe, datasets):
    names = ["mnist", "smiles", "coil20", "chest_xray", "fruit_shapes", "gtsrb", "sign_digits", "dogs_cats"]
    found = []
    for name in names:
        task = Task.from_folder(datasets / f"{name}.zip", split="test")
        nearest = library.nearest(task2vec.embed(task, probe, max_samples=400), 1)[0].name
        found.append(library.task(nearest).source)
    # dogs_cats is taken for natural_images, which has dogs and cats among its classes.
    assert sum(f == name for f, name in zip(found, names, strict=True)) >= 7, found
