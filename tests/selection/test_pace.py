"""Expected seconds on this machine, from a few measured steps."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import adapters
from adapters import AdapterConfig
from selection import RecommendationError, SelectionError, load_backbone, load_library, recommend
from selection.recommendation import pace as module
from selection.recommendation.pace import Pace, in_time, measured_pace, pace_of, remembered, slowness_of, timed
from task2vec import Compute, Splits, Task
from tests.conftest import random_task

COMPUTE = Compute("cpu", "none", workers=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_load", lambda: 0.5)
    return tmp_path / "cache" / "task2vec" / "pace.json"


@pytest.fixture(scope="module")
def model():
    return load_backbone(adapters.DEFAULT_BACKBONE)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (AdapterConfig("ssf", epochs=3), 3 * (100 * 0.5 + 20 * 0.1)),
        (AdapterConfig("linear", epochs=3), 120 * 0.1 + 3 * 100 * 0.5),  # looks once, then learns from what it saw
        (AdapterConfig("head2toe", epochs=3), 120 * 0.1 + 3 * 100 * 0.5),
        (AdapterConfig("linear", epochs=3, augment="light"), 3 * (100 * 0.5 + 20 * 0.1)),
    ],
)
def test_seconds_are_those_of_all_images_in_all_epochs(config, seconds):
    assert Pace(learning=0.5, looking=0.1).seconds(config, 100, 20) == pytest.approx(seconds)


def test_measuring_leaves_the_model_alone_and_gives_times(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pace = measured_pace(model, AdapterConfig("lora", rank=2, batch_size=16), random_task(40), COMPUTE)
    assert pace.looking > 0
    assert pace.learning > 0
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_images_that_cannot_be_read_are_left_out_of_the_measurement(model, tmp_path):
    for number in range(40):
        place = tmp_path / f"class {number}" / "only.png"
        place.parent.mkdir()
        Image.new("RGB", (32, 32), (6 * number, 0, 0)).save(place)
    (tmp_path / "class 0" / "only.png").write_bytes(b"no image")
    config = AdapterConfig("linear", batch_size=16)
    assert measured_pace(model, config, Task.from_folder(tmp_path), COMPUTE).learning > 0
    for place in tmp_path.rglob("*.png"):
        place.write_bytes(b"no image")
    with pytest.raises(SelectionError, match="none of 16 images"):
        measured_pace(model, config, Task.from_folder(tmp_path), COMPUTE)


def test_a_measurement_is_made_once_a_day_for_each_model_and_shape(model, cache, monkeypatch):
    measured = []
    monkeypatch.setattr(module, "measured_pace", lambda *given: measured.append(given[1]) or Pace(0.5, 0.1))
    task = random_task(20)
    for rate, epochs in ((0.001, 2), (0.002, 9)):  # neither changes how long a step takes
        config = AdapterConfig("lora", rank=2, learning_rate=rate, epochs=epochs)
        assert pace_of(model, config, task, COMPUTE) == Pace(0.5, 0.1)
    pace_of(model, AdapterConfig("lora", rank=8), task, COMPUTE)
    pace_of(model, AdapterConfig("lora", rank=2, batch_size=64), task, COMPUTE)
    assert len(measured) == 3
    old = {
        key: value | {"when": value["when"] - 2 * module.STAYS} for key, value in json.loads(cache.read_text()).items()
    }
    cache.write_text(json.dumps(old))
    pace_of(model, AdapterConfig("lora", rank=8), task, COMPUTE)
    assert len(measured) == 4


def test_a_machine_that_is_busier_or_quieter_than_before_is_measured_again(monkeypatch):
    assert remembered("key", lambda: Pace(4.0, 2.0)) == Pace(4.0, 2.0)
    monkeypatch.setattr(module, "_load", lambda: 1.4)
    assert remembered("key", lambda: Pace(1.0, 0.5)) == Pace(4.0, 2.0)
    monkeypatch.setattr(module, "_load", lambda: 2.5)
    assert remembered("key", lambda: Pace(1.0, 0.5)) == Pace(1.0, 0.5)


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"key": {}}'])
def test_a_damaged_cache_costs_a_measurement_and_no_more(content, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert remembered("key", lambda: Pace(1.0, 2.0)) == Pace(1.0, 2.0)
    assert remembered("key", lambda: Pace(3.0, 4.0)) == Pace(1.0, 2.0)


@pytest.fixture(scope="module")
def embedding():
    return load_library().embeddings(name="gtsrb")[0]


def test_a_recommendation_in_time_is_scaled_as_a_whole_and_keeps_to_the_limit(model, embedding, monkeypatch):
    library, splits = load_library(), Splits(random_task(100, num_classes=4))
    monkeypatch.setattr(module, "measured_pace", lambda *_: Pace(0.1, 0.05))

    def ask(max_seconds):
        return recommend(embedding, library, model, exclude=["gtsrb"], max_seconds=max_seconds)

    plain = ask(None)
    found = in_time(ask, None, model, splits, COMPUTE)
    expected = Pace(0.1, 0.05).seconds(plain.config, 80, 20)
    assert found.config == plain.config
    assert found.candidate.seconds == pytest.approx(expected)
    ratios = {c.config: c.seconds for c in plain.ranking}
    scale = {round(c.seconds / ratios[c.config], 6) for c in found.ranking}
    assert len(scale) == 1
    assert "s here)" in found.explain()
    assert "made the trials)" in plain.explain()
    assert slowness_of(plain, model, splits, COMPUTE) == pytest.approx(expected / plain.candidate.seconds)
    limit = expected / 2
    limited = in_time(ask, limit, model, splits, COMPUTE)
    slowness = expected / plain.candidate.seconds
    assert limited.config in {c.config for c in plain.ranking if c.seconds * slowness <= limit}


def test_a_limit_is_kept_by_the_measured_pace_of_what_is_recommended(model, embedding, monkeypatch):
    """What comes first without a limit is a hundred times slower here than the others."""
    library, splits = load_library(), Splits(random_task(100, num_classes=4))

    def ask(max_seconds):
        return recommend(embedding, library, model, exclude=["gtsrb"], max_seconds=max_seconds)

    slow = ask(None).config.method

    def measured(model, config, *_):
        return Pace(0.1, 0.05) if config.method == slow else Pace(0.001, 0.0005)

    monkeypatch.setattr(module, "measured_pace", measured)
    found = in_time(ask, 10.0, model, splits, COMPUTE)
    assert found.config.method != slow
    assert measured(model, found.config).seconds(found.config, 80, 20) <= 10.0
    told = r"max_seconds=0\.001; the quickest, linear.*, takes about \d\.\d s here"
    with pytest.raises(RecommendationError, match=told):
        in_time(ask, 0.001, model, splits, COMPUTE)


def test_the_pace_of_a_task_is_measured_though_its_classes_are_too_small_to_set_images_aside(model, embedding):
    images = random_task(20, num_classes=2)
    lopsided = images.select([*np.flatnonzero(images.labels == 0), np.flatnonzero(images.labels == 1)[0]])
    found = recommend(embedding, load_library(), model, exclude=["gtsrb"], methods=["linear"])
    assert slowness_of(found, model, Splits(lopsided), COMPUTE) > 0


def test_timing_changes_seconds_and_nothing_else(embedding):
    plain = recommend(embedding, load_library(), exclude=["gtsrb"])
    twice = timed(plain, 2.0)
    assert twice.timed_here
    assert dataclasses.replace(twice, ranking=plain.ranking, timed_here=False) == plain
