import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from task2vec.classifier import cross_validated_accuracy, fit_classifier, share_of_held_out


def problem(num_classes, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(90) % num_classes
    features = (
        generator.standard_normal((90, 5)) * [1, 10, 0.1, 1, 1] + generator.standard_normal((num_classes, 5))[labels]
    )
    return features, labels


def probabilities(classifier, features):
    return np.exp(log_softmax(features @ classifier.weight.T + classifier.bias, axis=1))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [0.01, 0.1, 1.0])
def test_it_minimises_the_stated_objective(num_classes, l2):
    features, labels = problem(num_classes)
    standardised = (features - features.mean(0)) / features.std(0)

    def objective(flat):
        weight, bias = flat[:-num_classes].reshape(num_classes, 5), flat[-num_classes:]
        likelihood = log_softmax(standardised @ weight.T + bias, axis=1)[np.arange(90), labels]
        return -likelihood.mean() + l2 / 2 * (weight**2).sum()

    best = minimize(objective, np.zeros(num_classes * 6), tol=1e-12).x
    expected = np.exp(
        log_softmax(standardised @ best[:-num_classes].reshape(num_classes, 5).T + best[-num_classes:], axis=1)
    )
    found = fit_classifier(features, labels, num_classes, l2=l2)
    np.testing.assert_allclose(probabilities(found, features), expected, atol=2e-4)
    assert found.accuracy == pytest.approx((expected.argmax(1) == labels).mean())


def test_a_class_without_images_has_no_probability():
    features, labels = problem(2)
    found = fit_classifier(features, labels * 2, 3, l2=0.1)  # class 1 has none
    assert found.weight.shape == (3, 5)
    assert (probabilities(found, features)[:, 1] == 0).all()
    without = fit_classifier(features, labels, 2, l2=0.1)
    np.testing.assert_array_equal(probabilities(found, features)[:, [0, 2]], probabilities(without, features))
    assert found.accuracy == without.accuracy


def test_classes_that_no_image_has_make_no_multi_label_classifier_look_better():
    features, labels = problem(3)
    several = np.stack([labels == 0, labels != 1], axis=1).astype(int)
    more = np.hstack([several, np.zeros((90, 8), int)])
    for measure in (cross_validated_accuracy, lambda *args, l2: fit_classifier(*args, l2=l2).accuracy):
        assert measure(features, more, 10, l2=0.1) == measure(features, several, 2, l2=0.1)


def test_a_constant_feature_does_no_harm():
    features, labels = problem(3)
    found = fit_classifier(np.hstack([features, np.ones((90, 1))]), labels, 3, l2=0.1)
    assert np.isfinite(found.weight).all()


def test_multi_label_is_one_logistic_regression_for_each_class():
    features, labels = problem(3)
    several = np.stack([labels == 0, labels != 1, np.ones(90), np.zeros(90)], axis=1).astype(int)
    found = fit_classifier(features, several, 4, l2=0.1)
    logits = features @ found.weight.T + found.bias
    for c in (0, 1):  # a sigmoid is a softmax over minus and plus half the logit, whose |W|^2 is half as large
        pair = fit_classifier(features, several[:, c], 2, l2=0.2)
        expected = probabilities(pair, features)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, c])), expected, atol=1e-5)
    assert (found.weight[2:] == 0).all()
    np.testing.assert_allclose(found.bias[2:], [np.log(91), -np.log(91)], rtol=1e-6)


def test_a_nearly_constant_feature_does_not_get_the_largest_weights():
    features, labels = problem(3)
    faint = np.random.default_rng(1).standard_normal((90, 3)) * 1e-4
    found = fit_classifier(np.hstack([features, faint]), labels, 3, l2=0.1)
    by_size = np.abs(found.weight * np.hstack([features, faint]).std(axis=0)).max(axis=0)
    assert by_size[5:].max() < 0.05 * by_size[:5].max()


def test_cross_validated_accuracy_is_that_of_images_the_classifier_was_not_fitted_on():
    generator = np.random.default_rng(0)
    noise, labels = generator.standard_normal((100, 60)), np.arange(100) % 2
    assert fit_classifier(noise, labels, 2, l2=0.01).accuracy > 0.9  # it learned the noise by heart
    assert cross_validated_accuracy(noise, labels, 2, l2=0.01) < 0.65
    features, classes = problem(3)
    expected = np.mean(
        [
            cross_val_score(
                make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.1 * 72), tol=1e-6)),
                features,
                classes,
                cv=StratifiedKFold(5, shuffle=True, random_state=seed),
            ).mean()
            for seed in range(5)
        ]
    )
    assert cross_validated_accuracy(features, classes, 3, l2=0.1) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("labels", "right", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 1, 0], 0.75),
        ([0, 0, 1, 2], [1, 0, 0, 0], 0.5),  # the classes 1 and 2 have one image each
        ([0, 1, 2, 3], [0, 0, 0, 0], 0.25),  # chance
        ([[1, 0], [1, 1]], [[1, 1], [1, 0]], 0.75),
    ],
)
def test_a_classs_only_image_says_nothing_of_how_well_classes_are_told_apart(labels, right, expected):
    assert share_of_held_out(np.array(right, bool), np.array(labels)) == expected


def test_cross_validation_copes_with_classes_of_one_image_and_several_labels():
    features, labels = problem(3)
    lonely = np.where(np.arange(90) == 7, 3, labels)
    assert 0 < cross_validated_accuracy(features, lonely, 4, l2=0.1) < 1
    several = np.stack([labels == 0, labels == 1], axis=1).astype(int)
    assert 0.5 < cross_validated_accuracy(features, several, 2, l2=0.1) <= 1
