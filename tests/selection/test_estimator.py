"""The classifier as scikit-learn's users know one."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from selection import AdapterClassifier, StoreError, TaskStore
from tests.conftest import random_task
from tests.task2vec.tasks.folders import make_folder, zip_of

EXCEPTIONS: dict[str, str] = {}
"""scikit-learn's checks that an image classifier cannot pass, each with its reason: none at present. Rows of numbers
are read as images one pixel high, so that its tables can be learned from."""


def classifier(**changes):
    settings = {"settings": {"epochs": 4}, "device": "cpu", "precision": "none", "workers": 0} | changes
    return AdapterClassifier("ssf", **settings)


@pytest.fixture(scope="module")
def images():
    task = random_task(30, size=20)
    return task.images.pixels, np.array(["dark", "grey", "light"])[task.labels]


@pytest.fixture(scope="module")
def fitted(images):
    return classifier().fit(*images)


@pytest.mark.slow
def test_it_passes_the_checks_of_scikit_learn():
    results = check_estimator(classifier(settings={"epochs": 6}), expected_failed_checks=EXCEPTIONS, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert sum(r["status"] == "passed" for r in results) > 40


def test_it_predicts_the_labels_that_it_was_given(fitted, images):
    pixels, labels = images
    probabilities = fitted.predict_proba(pixels)
    assert list(fitted.classes_) == ["dark", "grey", "light"]
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(fitted.predict(pixels), fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.score(pixels, labels) == np.mean(fitted.predict(pixels) == labels) > 0.5


def test_arrays_files_and_pictures_are_the_same_images(fitted, images, tmp_path):
    pixels = images[0][:6]
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    expected = fitted.predict_proba(pixels)
    for same in ([Image.fromarray(p) for p in pixels], [tmp_path / f"{i}.png" for i in range(6)]):
        np.testing.assert_allclose(fitted.predict_proba(same), expected, atol=1e-5)
    np.testing.assert_allclose(fitted.predict_proba([str(tmp_path / "3.png")])[0], expected[3], atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_paths_of_several_images_are_refused_as_rows_would_not_be_those_of_labels(fitted, tmp_path, packed):
    folder = make_folder(tmp_path / "pets")
    paths = [folder / "cat", folder / "dog"]
    if packed:
        paths = [zip_of(path, path.with_suffix(".zip")) for path in paths]
    labels = ["dark", "light"] * 5
    said = r"X has length 10, but 30 images lie there, .* give the path of every image"
    for ask in (
        lambda: classifier().fit(paths * 5, labels),
        lambda: fitted.predict(paths * 5),
        lambda: fitted.predict_proba(np.array(list(map(str, paths * 5)))),
        lambda: fitted.score(paths * 5, labels),
    ):
        with pytest.raises(ValueError, match=said):
            ask()
    with pytest.raises(ValueError, match="X has length 1, but 3 images lie there"):
        fitted.predict(str(paths[0]))
    assert len(fitted.predict([folder / "cat" / "0.png"])) == len(fitted.predict(folder / "cat" / "0.png")) == 1


def test_rows_are_images_of_the_shape_that_is_given():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    rows = generator.normal(size=(40, 64)) + 3 * labels[:, None]
    tuned = classifier(image_shape=(8, 8)).fit(rows, labels)
    assert tuned.n_features_in_ == 64
    assert tuned.score(rows, labels) > 0.8
    with pytest.raises(ValueError, match="are no images of shape"):
        classifier(image_shape=(8, 9)).fit(rows, labels)


def test_it_can_be_cloned_pickled_and_cross_validated(fitted, images):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        again.predict(images[0])
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(images[0]), fitted.predict_proba(images[0]))
    assert len(cross_val_score(classifier(settings={"epochs": 1}), *images, cv=2)) == 2


def test_clones_share_a_store_and_one_in_a_file_goes_to_other_processes(tmp_path):
    store = TaskStore(tmp_path / "tasks.db", files=tmp_path / "own")
    assert clone(classifier(store=store)).store is store
    again = pickle.loads(pickle.dumps(classifier(store=store))).store
    assert (again.location, again._files.root) == (store.location, tmp_path / "own")
    with pytest.raises(StoreError, match="lies in the memory of this process alone"):
        pickle.dumps(classifier(store=TaskStore()))


@pytest.mark.parametrize(
    ("changes", "images", "labels", "words"),
    [
        ({}, np.zeros((4, 8, 8)), [0, 0, 0, 0], "one class"),
        ({"method": "magic"}, np.zeros((4, 8, 8)), [0, 1, 0, 1], "no method 'magic'"),
        (
            {"method": None, "settings": {"epochs": 1}},
            np.zeros((4, 8, 8)),
            [0, 1, 0, 1],
            "belong to a method; give method=",
        ),
        ({"settings": {"method": "lora"}}, np.zeros((4, 8, 8)), [0, 1, 0, 1], "settings name a method"),
        ({"random_state": "first"}, np.zeros((4, 8, 8)), [0, 1, 0, 1], "must be a whole number"),
        ({}, np.array(["nowhere.png"] * 4), [0, 1, 0, 1], "nowhere.png"),
        ({"backbone": "nonsense"}, np.zeros((4, 8, 8)), [0, 1, 0, 1], "no model 'nonsense'"),
        ({}, ["nowhere.png"] * 4, [0, 1, 0, 1], "nowhere.png"),
        ({}, np.zeros((4, 8, 8)), [0, 1], "inconsistent"),
        ({}, ["nowhere.png"] * 4, [[0, 1], [1, 0], [0, 1], [1, 1]], "1d array"),
    ],
)
def test_what_is_wrong_is_a_value_error(changes, images, labels, words):
    with pytest.raises(ValueError, match=words):
        classifier().set_params(**changes).fit(images, labels)
