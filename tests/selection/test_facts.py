"""What one pass through the backbone says of a target, against the same worked out step by step."""

import dataclasses
import json
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import task2vec
from adapters import BackboneId
from adapters.data import transform_of
from selection import SelectionError
from selection.recommendation import facts
from selection.recommendation.facts import PENALTY, BackboneFacts, facts_of
from selection.recommendation.ridge import PENALTIES, leave_one_out_accuracy
from task2vec import Task
from task2vec.log_sketch import log_sketch
from tests.adapters.families import FAMILIES, backbone, images


def coloured(count=60, strength=40):
    """Noise of three tints."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = generator.integers(60, 190, (count, 32, 32, 3)).astype(float)
    pixels[np.arange(count), :, :, labels] += strength
    return Task.from_arrays(pixels.clip(0, 255).astype(np.uint8), labels, name="tints")


@pytest.fixture(scope="module")
def model():
    return timm.create_model("task2vec_vit_patch4_32", pretrained=True)


def test_the_probes_are_cross_validated_on_features_at_each_third_of_the_blocks(model):
    task = coloured(strength=6)
    found = facts_of(task, model)
    inputs = torch.stack([transform_of(model)(task[i][0]) for i in range(len(task))])
    model.eval()
    taken = {}
    handles = [
        model.blocks[i].register_forward_hook(lambda _, a, o, i=i: taken.__setitem__(i, o.mean(1))) for i in (1, 3, 5)
    ]
    with torch.no_grad():
        final = model.forward_head(model.forward_features(inputs), pre_logits=True)
    for handle in handles:
        handle.remove()

    def expected(features):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (PENALTY * 48), tol=1e-6))
        splits = (StratifiedKFold(5, shuffle=True, random_state=seed) for seed in range(4))
        return np.mean([cross_val_score(classifier, features, task.labels, cv=split).mean() for split in splits])

    for value, features in zip((*found.by_depth, found.linear_probe), (*taken.values(), final), strict=True):
        assert value == pytest.approx(expected(features.numpy()), abs=0.1)
    assert found.backbone.is_same(BackboneId.of_name("task2vec_vit_patch4_32"))
    assert (found.num_images, found.num_classes) == (60, 3)
    assert np.isfinite(found.numbers).all()


@pytest.mark.parametrize(("count", "classes"), [(2, 2), (3, 2), (3, 3), (5, 3)])
def test_a_handful_of_images_has_facts_too(model, count, classes):
    task = coloured(count)
    task = dataclasses.replace(task, labels=np.arange(count) % classes, class_names=tuple("abc"[:classes]))
    found = facts_of(task, model)
    assert found.num_images == count
    assert np.isfinite([*found.numbers, found.logme, found.h_score]).all()


def test_of_a_large_task_some_images_are_looked_at_in_the_shares_of_its_classes(model, monkeypatch):
    monkeypatch.setattr(facts, "MOST_SEEN", 40)
    task = coloured(200).select(np.flatnonzero(np.arange(200) % 3 + np.arange(200) // 100 < 3))  # unequal classes
    looked_at = facts._some_of(task)
    assert facts_of(task, model).num_images == len(looked_at) == 40
    share, shown = (np.bincount(t.labels) / len(t) for t in (task, looked_at))
    np.testing.assert_allclose(shown, share, atol=0.15)


def test_the_fisher_is_that_of_the_backbone_on_the_images_as_it_takes_them(model):
    task = coloured()
    found = facts_of(task, model)
    assert found.fisher == task2vec.sensitivity(task, model).mass
    assert found.image_size == (3, 32, 32)
    np.testing.assert_allclose(found.sketch, log_sketch(task2vec.sensitivity(task, model).fisher), atol=5e-4)
    assert BackboneFacts.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert (found.without_fisher().fisher, found.without_fisher().sketch) == ({}, ())


@pytest.mark.parametrize(
    ("changes", "compares"),
    [
        ({}, True),
        ({"fisher": {"blocks.0.mlp.fc1": 2.0}}, True),
        ({"fisher": {"blocks.1.mlp.fc1": 2.0}}, False),
        ({"fisher": {}}, False),
        ({"image_size": (3, 224, 224)}, False),
        ({"image_size": None}, False),
        ({"backbone": BackboneId("vit_small")}, False),  # whose layers have the same names
    ],
)
def test_the_fisher_of_two_tasks_compares_in_one_backbone_on_images_of_one_size(changes, compares):
    facts = BackboneFacts(
        BackboneId("vit"), 100, 5, 0.5, (0.2,), (0.3,), 0.5, 2.0, {"blocks.0.mlp.fc1": 1.0}, (3, 96, 96)
    )
    other = dataclasses.replace(facts, **changes)
    assert facts.compares_with(other) is other.compares_with(facts) is compares


def test_clear_labels_are_told_from_shuffled_ones(model):
    clear = coloured()
    shuffled = dataclasses.replace(clear, labels=np.random.default_rng(1).permutation(clear.labels))
    good, bad = facts_of(clear, model), facts_of(shuffled, model)
    assert good.linear_probe > 0.95
    assert bad.linear_probe < 0.6
    assert good.logme > bad.logme
    assert good.h_score > bad.h_score


def test_where_something_is_shows_best_in_place(model):
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(60, 120, (90, 32, 32, 3)), np.arange(90) % 9
    for image, label in zip(pixels, labels, strict=True):
        row, column = np.array(divmod(label, 3)) * 11 + generator.integers(0, 4, 2)
        image[row : row + 6, column : column + 6] += 40
    found = facts_of(Task.from_arrays(pixels.astype(np.uint8), labels), model)
    assert min(found.in_place) > 0.9
    assert max(found.by_depth) < 0.6


def test_left_out_images_are_predicted_as_by_a_regression_on_the_others():
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 3
    features = generator.standard_normal((40, 7)) + 0.7 * np.eye(3, 7)[labels]
    targets = 2 * np.eye(3)[labels] - 1
    centred = features - features.mean(axis=0)
    scale = np.square(centred).sum() / len(centred)
    accuracies = {}
    for penalty in PENALTIES:
        predicted = np.empty_like(targets)
        for i in range(40):
            x, y = np.delete(features, i, axis=0), np.delete(targets, i, axis=0)
            ridge = Ridge(alpha=penalty * scale).fit(x, y)
            predicted[i] = ridge.predict(features[i : i + 1])[0]
        accuracies[np.square(targets - predicted).mean()] = (predicted.argmax(axis=1) == labels).mean()
    assert leave_one_out_accuracy(features, labels, 3) == accuracies[min(accuracies)]


def test_a_network_that_is_none_of_timms_has_facts_as_well():
    own = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    backbone = torch.nn.Sequential(OrderedDict(body=own, fc=torch.nn.Linear(8, 2)))
    transform = task2vec.load_probe().transform
    found = facts_of(coloured(), backbone, transform=transform)
    probe = task2vec.Probe(backbone, "fc", transform)
    assert found.fisher == task2vec.sensitivity(coloured(), probe).mass
    assert list(found.fisher) == ["body.0"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_backbones_can_be_read_and_stays_as_it_is(family):
    model = backbone(family).train()
    next(m for m in model.modules() if not list(m.children())).eval()  # as of one whose statistics are frozen
    modes = [m.training for m in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    side = images(family).shape[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (12, side, side, 3)).astype(np.uint8)
    found = facts_of(Task.from_arrays(pixels, np.arange(12) % 2), model)
    assert len(found.by_depth) == 3
    assert len(found.in_place) == 4
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_facts_come_back_from_json_and_several_labels_are_refused(model):
    found = facts_of(coloured(12), model)
    assert BackboneFacts.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="not the facts of a task"):
        BackboneFacts.from_dict({"backbone": "x"})
    for change in (
        {"linear_probe": "x"},
        {"linear_probe": 1.5},
        {"by_depth": []},
        {"by_depth": 3},
        {"num_images": 0},
        {"logme": float("nan")},
        {"fisher": {"head": -1.0}},
        {"fisher": [1.0]},
    ):
        with pytest.raises(ValueError, match="not the facts of a task"):
            BackboneFacts.from_dict(found.to_dict() | change)
    several = Task.from_arrays(np.zeros((4, 8, 8, 3), np.uint8), [[1, 0], [0, 1], [1, 1], [0, 0]])
    with pytest.raises(SelectionError, match="has several labels an image"):
        facts_of(several, model)
