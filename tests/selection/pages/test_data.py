"""What the atlas says of a store, compared with the store itself."""

import base64
import dataclasses

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

import selection
from selection import StoreError, TaskStore
from selection.pages.data import gather
from selection.pages.matrix import ordered
from task2vec import DistanceError
from task2vec.thumbnails import thumbnails_of
from tests.conftest import random_task


@pytest.fixture(scope="module")
def found(few, target):
    return gather(few, target=target, advise=False)


def test_tasks_come_with_what_the_store_knows(found, few):
    assert [task.name for task in found.tasks[:-1]] == few.names()
    for shown in found.tasks[:-1]:
        stored = few.task(shown.name)
        assert (shown.tags, shown.source, shown.classes) == (stored.tags, stored.source, stored.classes)
        best = max((r for r in shown.results if r.backbone == found.backbones[0]), key=lambda r: r.score)
        by_config = {}
        for trial in stored.trials:
            if str(trial.backbone) == found.backbones[0]:
                by_config.setdefault(trial.config, []).append(trial.score)
        assert best.score == pytest.approx(max(np.mean(scores) for scores in by_config.values()))


@pytest.mark.parametrize("distance", ["log_cosine", "asymmetric"])
def test_nearest_tasks_are_those_of_the_store(few, distance):
    shown = gather(few, distance=distance, advise=False)
    for task in shown.tasks:
        own = few.embeddings(name=task.name)[0]
        others = [n for n in few.nearest(own, 6, distance=distance) if n.name != task.name][:5]
        assert [shown.tasks[n].name for n, _ in task.nearest[:5]] == [n.name for n in others]
        np.testing.assert_allclose([d for _, d in task.nearest[:5]], [n.distance for n in others], atol=1e-6)


def test_the_target_is_last_with_its_recommendation(found, few, target):
    shown = found.tasks[found.target]
    own = selection.recommend(target, few, found.backbones[0])
    assert (shown.name, found.target) == ("digits of mine", len(few))
    assert shown.advice["config"] == own.config.label
    assert [e["task"] for e in shown.advice["evidence"]] == [e.task for e in own.evidence]
    assert shown.advice["ranking"][0]["predicted"] == pytest.approx(own.ranking[0].predicted)


def test_a_stored_task_is_advised_without_its_source(few):
    shown = {task.name: task for task in gather(few).tasks}["mnist"]
    own = selection.recommend(few.embeddings(name="mnist")[0], few, exclude=["mnist", "mnist@100"])
    assert shown.advice["config"] == own.config.label
    assert not {e["task"] for e in shown.advice["evidence"]} & {"mnist", "mnist@100"}


def test_recommendations_are_left_out_where_not_wanted(few):
    assert all(task.advice is None for task in gather(few, advise=False).tasks)
    assert any(task.advice is not None for task in gather(few, advise=True).tasks)


def test_pictures_of_many_tasks_are_fewer_of_each(few, monkeypatch):
    store, shown = TaskStore(), [*thumbnails_of(random_task(32, 2))]
    for embedding in few.embeddings()[:3]:
        store.add(dataclasses.replace(embedding, thumbnails=tuple(shown)))
    target = dataclasses.replace(few.embeddings()[3], task="mine", thumbnails=tuple(shown[:2]))
    counts = [len(task.pictures) for task in gather(store, target=target, advise=False).tasks]
    assert counts == [16, 16, 16, 2]
    one = max(len(thumbnail.webp) for thumbnail in shown)
    monkeypatch.setattr("selection.pages.data.PICTURED", 20 * one)
    tasks = gather(store, target=target, advise=False).tasks
    assert 5 <= len(tasks[0].pictures) == len(tasks[2].pictures) < 16
    label, url = tasks[0].pictures[1]
    assert (label, base64.b64decode(url.split(",")[1])) == shown[1]
    assert not any(t.pictures for t in gather(store, target=target, advise=False, thumbnails=False).tasks)


def test_fisher_by_layer_is_the_mean_of_its_filters(found, target):
    start = 0
    for layer, value in zip(target.layers, found.tasks[-1].fisher, strict=True):
        assert 10**value == pytest.approx(target.fisher[start : start + layer.num_filters].mean(), rel=1e-5)
        start += layer.num_filters
    assert found.layers == tuple(layer.name for layer in target.layers)


def test_the_matrix_stands_in_the_order_of_its_tree():
    points = np.random.default_rng(0).normal(size=(9, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    found = ordered(distances)
    np.testing.assert_array_equal(found.distances, distances[np.ix_(found.order, found.order)])
    heights = sorted(max(height) for _, height in found.branches)
    np.testing.assert_allclose(heights, sorted(linkage(squareform(distances), "average")[:, 2]))
    corners = {x for across, height in found.branches for x, y in zip(across, height, strict=True) if y == 0}
    assert corners == set(range(9))


def test_embeddings_of_other_probes_are_counted_and_left_out(few):
    store = TaskStore()
    first, second, third = few.embeddings()[:3]
    store.add(first)
    store.add(second)
    store.add(dataclasses.replace(third, probe="0" * 32))
    found = gather(store)
    assert [task.name for task in found.tasks] == [first.task, second.task]
    assert found.left_out == 1
    assert found.backbones == ()


def test_one_task_alone_is_an_atlas(few):
    store = TaskStore()
    store.add(few.embeddings(name="mnist")[0])
    found = gather(store)
    assert found.tasks[0].nearest == ()
    assert found.layout.stress is None


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"distance": "far"}, DistanceError, "no distance 'far'"),
        ({"backbone": "resnet50"}, StoreError, "no trial in memory used resnet50; it has trials on task2vec_vit"),
    ],
)
def test_what_is_not_there_is_said(few, changes, error, said):
    with pytest.raises(error, match=said):
        gather(few, **changes)


def test_an_empty_store_is_refused():
    with pytest.raises(StoreError, match="no tasks embedded to show; add some"):
        gather(TaskStore())


def test_a_target_of_another_probe_is_refused(few, target):
    with pytest.raises(StoreError, match="by the same probe, estimator and layers as digits of mine"):
        gather(few, target=dataclasses.replace(target, probe="0" * 32))


def test_backbones_of_one_name_with_other_weights_are_kept_apart(few):
    store, task = TaskStore(), few.task("mnist")
    first = task.trials[0]
    other = dataclasses.replace(first, backbone=dataclasses.replace(first.backbone, fingerprint="f" * 32), score=0.1)
    store.add(few.embeddings(name="mnist")[0], trials=[first, other])
    found = gather(store)
    assert sorted(result.score for result in found.tasks[0].results) == sorted([first.score, 0.1])
    assert len(found.backbones) == 2
    assert any("(ffffffff)" in name for name in found.backbones)
