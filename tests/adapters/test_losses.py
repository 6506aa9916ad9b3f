"""Losses, sampling and metrics of imbalanced and multi-label tasks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import adapters
from adapters import AdapterConfig, ConfigError, TrainingError
from adapters.augmentation import mixing_of
from adapters.losses import Loss, balancing_weights, drawn_order
from adapters.metrics import metrics_of
from tests.adapters.test_fit import CONFIG, SIZE, imbalanced, model_for, stripes


def test_balancing_weights_are_those_of_scikit_learn():
    labels = torch.tensor([0] * 9 + [2] * 3 + [3])
    found = balancing_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels.numpy())
    assert found[[0, 2, 3]].tolist() == pytest.approx(expected.tolist())
    assert found[[1, 4]].tolist() == [0, 0]
    assert found[labels].mean() == pytest.approx(1)


def test_balanced_sampling_draws_all_classes_equally_often():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    counts = labels[drawn_order(labels, 1000, 3)].bincount()
    assert ((counts - 1000 / 3).abs() < 60).all()
    assert drawn_order(None, 10, 3).sort().values.tolist() == list(range(10))


def test_the_losses_are_torchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    rows = torch.randint(2, (6, 3))
    weights = torch.tensor([1.0, 2.0, 0.5])
    plain = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(Loss("cross_entropy", 0.1)(logits, labels).mean(), plain)
    weighted = Loss("weighted_cross_entropy", 0.0, weights)(logits, labels).sum() / weights[labels].sum()
    torch.testing.assert_close(weighted, F.cross_entropy(logits, labels, weight=weights))
    binary = F.binary_cross_entropy_with_logits(logits, rows.float())
    torch.testing.assert_close(Loss("binary_cross_entropy")(logits, rows).mean(), binary)


def test_mixed_targets_are_as_smooth_as_plain_ones_and_sum_to_one():
    mix = mixing_of("timm", 3, label_smoothing=0.2)
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    before = images.clone()
    mixed, targets = mix(images, labels, (0, 1))
    assert torch.equal(images, before)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))
    assert torch.equal(mixed[4], images[4])  # an odd one has no partner
    plain = Loss("cross_entropy", 0.2)(torch.eye(5, 3), labels)[4]
    torch.testing.assert_close(Loss("cross_entropy", 0.2)(torch.eye(5, 3), targets)[4], plain)
    assert torch.equal(mix(images, labels, (0, 1))[0], mixed)
    assert not torch.equal(mix(images, labels, (0, 2))[0], mixed)
    assert mixing_of("light", 3, 0.0) is None


def several(count, seed=0):
    """Stripes whose two labels say whether they are horizontal, and whether there are any."""
    return [(image, torch.tensor([int(label == 0), int(label < 2)])) for image, label in stripes(count, seed=seed)]


def test_a_multi_label_task_is_tuned_and_its_best_epoch_is_that_of_mean_average_precision():
    model = model_for(AdapterConfig("lora", rank=4, epochs=5), num_classes=2)
    result = adapters.fit(model, several(96), several(48, seed=1), batch_size=16, progress=False)
    precisions = [record["mean_average_precision"] for record in result.history]
    assert result.best.mean_average_precision == max(precisions) == precisions[result.best_epoch - 1]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert adapters.evaluate(model, several(48, seed=1)) == result.best
    assert result.best.mean_average_precision > 0.8


def test_metrics_of_several_labels_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (60, 4), generator=generator)
    labels[:, 3] = 0  # of which there is no image
    scores = torch.randn(60, 4, generator=generator) + labels
    found = metrics_of(scores, labels.float())
    expected = average_precision_score(labels[:, :3], scores[:, :3], average="macro")
    assert found.mean_average_precision == pytest.approx(expected)
    assert found.macro_f1 == pytest.approx(f1_score(labels[:, :3], scores[:, :3] > 0, average="macro"))
    assert found.accuracy == pytest.approx(((scores > 0) == labels).float().mean().item())


@pytest.mark.parametrize("settings", [{"loss": "weighted_cross_entropy"}, {"sampling": "balanced"}])
def test_an_imbalanced_task_is_told_apart_better_where_classes_count_the_same(settings):
    results = []
    for chosen in ({}, settings):
        model = model_for(AdapterConfig("lora", rank=4, epochs=6))
        adapters.fit(model, imbalanced(96), batch_size=16, progress=False, **chosen)
        results.append(adapters.evaluate(model, stripes(90, seed=1)).mean_class_accuracy)
    assert results[1] > results[0]


@pytest.mark.parametrize(
    ("settings", "data", "error", "message"),
    [
        ({"loss": "hinge"}, stripes(6), ConfigError, "loss='hinge' is unknown"),
        ({"loss": "binary_cross_entropy"}, stripes(6), ConfigError, "does not fit labels that are one class number"),
        ({"loss": "cross_entropy"}, several(6), ConfigError, "does not fit labels that are rows of 0 and 1"),
        ({"sampling": "balanced"}, several(6), ConfigError, "needs one label an image"),
        ({"sampling": "often"}, stripes(6), ConfigError, "sampling='often' is unknown"),
        ({"monitor": "mean_average_precision"}, stripes(6), ConfigError, "is of several labels an image"),
        ({}, several(6), TrainingError, "rows of 2 classes, but the classifier has 3; attach with num_classes=2"),
        ({}, [(torch.zeros(3, SIZE, SIZE), [0, 2])] * 3, TrainingError, "labels of image 0 must be 0 or 1"),
    ],
)
def test_settings_that_do_not_fit_the_labels_are_refused(settings, data, error, message):
    with pytest.raises(error, match=message):
        adapters.fit(model_for(CONFIG), data, progress=False, **settings)
