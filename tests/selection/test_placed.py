"""Configurations whose parameters go where the backbone's Fisher on the task is."""

import dataclasses
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import adapters
import task2vec
from adapters import AdapterConfig
from adapters.data import Batches, transform_of
from selection import Grid, SelectionError, TaskStore, load_result, recommend, run_grid, tune
from selection.evidence.attached import attach_for
from selection.evidence.placed import placed
from selection.evidence.runner import run_trial
from selection.evidence.space import parameters_on
from selection.evidence.validation_split import VALIDATION_SHARE
from selection.recommendation.pace import pace_of
from task2vec import Compute, Task, read_splits
from tests.selection.test_store import embedding, trial

NAME = adapters.DEFAULT_BACKBONE
COMPUTE = Compute("cpu", "none", workers=0)
PLACED = AdapterConfig("lora", rank=4, placement="mass", epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noise, one brighter than the other."""
    root, generator = tmp_path_factory.mktemp("datasets") / "spots", np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 160, (32, 32, 3)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def backbone():
    return timm.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("rule", ["mass", "mass_per_parameter", "root_mass"])
def test_tuning_places_the_parameters_by_the_fisher_of_what_it_learns_from(folder, rule, tmp_path):
    config = PLACED.replace(placement=rule)
    found = tune(folder, NAME, config, compute=COMPUTE, out=tmp_path, progress=False)
    learned, _ = Task.from_folder(folder, split="train").split(VALIDATION_SHARE, seed=0)
    fisher = task2vec.sensitivity(learned, backbone(), transform=transform_of(backbone()))
    budget = parameters_on(NAME, config.replace(placement=None))
    expected = adapters.allocate(config, fisher.mass, NAME, parameters=budget, rule=rule)
    own = adapters.adapter_of(found.model).config
    assert own == expected
    assert own.placement is None
    assert len({size for _, size in own.sizes}) > 1
    assert 0.9 * budget < adapters.num_adapter_parameters(found.model) <= budget
    for site, size in own.sizes:
        assert f"| {site} | {size} |" in (tmp_path / "README.md").read_text()
    images = read_splits(folder).test
    assert load_result(tmp_path, compute=COMPUTE).predict(images).probabilities.shape == (8, 2)
    again = tune(folder, NAME, config, compute=COMPUTE, out=tmp_path, progress=False)
    assert again.fit.history == found.fit.history  # the same places, so that it is the same training, which is over


def test_a_grid_tries_it_and_keeps_it_as_one_configuration_of_all_tasks(folder):
    store = TaskStore()
    grid = Grid(folder.parent, configs=(PLACED, PLACED.replace(placement=None)), compute=COMPUTE)
    run_grid(grid, store, progress=False)
    trials = store.task("spots").trials
    assert {t.config for t in trials} == set(grid.configs)
    first, second = (next(t for t in trials if t.config == config) for config in grid.configs)
    assert first.parameters <= second.parameters == parameters_on(NAME, PLACED)
    run_grid(grid, store, progress=False)
    assert store.task("spots").trials == trials  # with their seconds: nothing was trained again


@pytest.mark.slow
def test_methods_that_choose_single_weights_are_tried_in_a_grid_as_tuning_tries_them(folder, tmp_path):
    """What they choose by is measured on the images that are learned from."""
    configs = tuple(AdapterConfig(method, epochs=1) for method in ("gps", "fish"))
    store = TaskStore()
    run_grid(Grid(folder.parent, configs=configs, compute=COMPUTE), store, logs=tmp_path, progress=False)
    for own in store.task("spots").trials:
        pace = pace_of(backbone(), own.config, Task.from_folder(folder, split="train"), COMPUTE)
        assert pace.learning > 0
        learned, _ = Task.from_folder(folder, split="train").split(VALIDATION_SHARE)
        model = attach_for(learned, backbone(), own.config, 2, compute=COMPUTE, seed=own.seed)
        assert own.parameters == adapters.num_adapter_parameters(model)
    assert len(store.task("spots").trials) == 2


def test_it_is_recommended_like_any_other_also_for_another_backbone():
    store = TaskStore()
    for i in range(3):
        own = [
            dataclasses.replace(trial(score), config=config)
            for config, score in ((PLACED, 0.9), (PLACED.replace(placement=None), 0.5))
        ]
        store.add(embedding(f"task {i}", seed=i), trials=own, source=f"source {i}")
    assert recommend(embedding("target", seed=9), store, "vit_tiny_patch16_224").config == PLACED
    assert "measured on your images when tuning starts" in recommend(embedding("t", seed=9), store, "vit").explain()
    elsewhere = recommend(embedding("target", seed=9), store, "vit_small_patch16_224")
    assert elsewhere.config == PLACED
    assert elsewhere.candidate.parameters == 12 * 2 * 4 * 2 * 384


def test_images_that_are_no_task_are_named():
    batches = Batches([(torch.zeros(3, 32, 32), i % 2) for i in range(4)], transform_of(backbone()))
    with pytest.raises(SelectionError, match=r"placement='mass' is measured on a task2vec\.Task, not list"):
        run_trial(backbone(), PLACED, batches, batches, batches, seed=0, compute=COMPUTE)


@pytest.mark.parametrize(("classes", "measured"), [(2, 100), (50, 100), (70, 140)])
def test_places_are_measured_on_a_hundred_images_or_two_of_each_class(classes, measured, monkeypatch):
    generator, seen = np.random.default_rng(0), []
    images = generator.integers(0, 256, (3 * classes + 150, 32, 32, 3), dtype=np.uint8)
    task = Task.from_arrays(images, np.arange(len(images)) % classes, name="noise")
    measure = task2vec.sensitivity
    monkeypatch.setattr(task2vec, "sensitivity", lambda *a, **k: seen.append(measure(*a, **k)) or seen[-1])
    config = placed(PLACED, task, backbone(), compute=COMPUTE)
    assert [found.num_samples for found in seen] == [measured]
    assert config == adapters.allocate(PLACED, seen[0].mass, NAME, parameters=parameters_on(NAME, PLACED), rule="mass")


def test_without_a_placement_nothing_is_measured():
    config = AdapterConfig("ssf")
    assert placed(config, None, None) is config


def test_what_has_a_single_place_is_refused_before_an_image_is_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "gone")
    task = Task.from_folder(tmp_path / "gone", split="train")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(adapters.ConfigError, match="lora has parameters at one place of VisionTransformer"):
        placed(PLACED.replace(blocks=(1,)), task, backbone(), compute=COMPUTE)
    with pytest.raises(task2vec.TaskError, match="20 of 20 images"):
        placed(PLACED, task, backbone(), compute=COMPUTE)
