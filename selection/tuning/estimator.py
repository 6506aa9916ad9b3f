"""A tuned backbone as scikit-learn knows classifiers: `fit`, `predict`, `predict_proba`, `score`.

scikit-learn hands over tables of numbers, one row an image. A row is read as an image of the shape that
`image_shape` says, or one pixel high; its numbers are scaled to what training rows had as smallest and largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from timm.data import create_transform

import adapters
from adapters import AdapterConfig, AdapterError
from adapters.data import preprocessing_of
from selection.errors import SelectionError
from selection.results.images import unlabelled
from selection.results.result import probabilities_of
from selection.store import TaskStore
from selection.tuning.auto import auto_tune
from selection.tuning.one import Tuned, tune
from task2vec import Compute, Task, Task2VecError

Array = npt.NDArray[Any]


class AdapterClassifier(ClassifierMixin, BaseEstimator):
    """Tunes a pretrained backbone on labelled images, with the recommended adapter or the one that is named.

    Args:
        method: One of `adapters.METHODS`; None for the recommended one.
        settings: Of the method, such as `{"rank": 8, "epochs": 10}`.
        backbone: A timm name, whose pretrained weights are loaded.
        store: Where the evidence for the recommendation comes from; the shipped library if None.
        image_shape: `(H, W)` or `(H, W, C)` of the images that rows of numbers stand for; `(1, features)` if None.
        device: As in `task2vec.Compute`.
        precision: As `autocast` in `task2vec.Compute`.
        workers: As in `task2vec.Compute`.
        random_state: Fixes everything that is drawn at random; a whole number.

    Attributes:
        classes_: The labels, sorted.
        model_: The tuned model; a plain one of timm's where the method merges.
        config_: What was tuned.
        validation_accuracy_: Accuracy on the fifth of the images that watched over the training.
        n_features_in_: Numbers in a row, where rows were given.
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        backbone: str = adapters.DEFAULT_BACKBONE,
        store: TaskStore | None = None,
        image_shape: Sequence[int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        workers: int | str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.method = method
        self.settings = settings
        self.backbone = backbone
        self.store = store
        self.image_shape = image_shape
        self.device = device
        self.precision = precision
        self.workers = workers
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> AdapterClassifier:
        """Tune on images.

        Args:
            X: Rows of numbers `(N, features)`; images as an array `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`; or a
                list of paths of image files, or of PIL images.
            y: A label for each, of any type that scikit-learn takes.

        Raises:
            ValueError: there are no two classes, or the images, the labels or a setting are wrong.
        """
        if self.random_state is not None and not isinstance(self.random_state, int | np.integer):
            raise ValueError(f"random_state={self.random_state!r} must be a whole number")
        if self.method is None and self.settings:
            raise ValueError(f"settings={dict(self.settings)} belong to a method; give method= too")
        if "method" in (self.settings or {}):
            raise ValueError("settings name a method; give it as method=")
        if y is None:
            raise ValueError("this classifier requires y to be passed, but the target y is None")
        if _are_arrays(X):
            X, y = validate_data(self, X, y, dtype="numeric", allow_nd=True, ensure_min_samples=2)
        else:
            y = column_or_1d(y)
        check_consistent_length(X, y)
        check_classification_targets(y)
        self.classes_ = unique_labels(y)
        if len(self.classes_) < 2:
            raise ValueError(f"all images are of one class, {self.classes_[0]!r}; at least two classes are needed")
        if _are_arrays(X) and X.ndim == 2:
            self._low, self._high = float(X.min()), float(X.max())
        labels = np.searchsorted(self.classes_, y)
        compute, seed = self._compute(), 0 if self.random_state is None else int(self.random_state)
        try:
            task = self._task(X, labels)
            if self.method is None:
                tuned: Tuned = auto_tune(task, self.backbone, self.store, compute=compute, seed=seed, progress=False)
            else:
                config = AdapterConfig(self.method, **dict(self.settings or {}))
                tuned = tune(task, self.backbone, config, compute=compute, seed=seed, progress=False)
        except (Task2VecError, AdapterError, SelectionError) as error:
            raise ValueError(str(error)) from error
        self.config_ = adapters.adapter_of(tuned.model).config
        self.preprocessing_ = preprocessing_of(tuned.model)
        self.model_ = tuned.model if tuned.merged is None else tuned.merged
        self.validation_accuracy_ = tuned.fit.best.accuracy
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probabilities `(N, C)` of the classes, in the order of `classes_`.

        Raises:
            ValueError: the images are wrong, or one cannot be read.
        """
        check_is_fitted(self)
        if _are_arrays(X):
            X = validate_data(self, X, dtype="numeric", allow_nd=True, reset=False)
        try:
            task = self._task(X, None)
            found, unreadable = probabilities_of(
                self.model_,
                create_transform(**self.preprocessing_, is_training=False),
                task,
                num_classes=len(self.classes_),
                compute=self._compute(),
            )
        except (Task2VecError, SelectionError) as error:
            raise ValueError(str(error)) from error
        if unreadable:
            raise ValueError(next(iter(unreadable.values())))
        return found

    def predict(self, X: Any) -> Array:
        """The likeliest class of each image, `(N,)`.

        Raises:
            ValueError: the images are wrong, or one cannot be read.
        """
        numbers = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[numbers])

    def _compute(self) -> Compute:
        return Compute(self.device, self.precision, self.workers)  # type: ignore[arg-type]

    def _task(self, images: Any, labels: npt.NDArray[np.int64] | None) -> Task:
        if _are_arrays(images) and images.ndim == 2:
            images = self._as_images(images)
        task = unlabelled(images)[0]
        given = 1 if isinstance(images, str | Path | Image.Image) else len(images)
        if len(task) != given:
            raise ValueError(
                f"X has length {given}, but {len(task)} images lie there, which labels and predictions could not "
                "belong to; give the path of every image, not of folders or zips"
            )
        if labels is None:
            return task
        return Task(task.name, labels.astype(np.int64), tuple(map(str, self.classes_)), task.images, source=task.source)

    def _as_images(self, rows: Array) -> npt.NDArray[np.uint8]:
        shape = (1, rows.shape[1]) if self.image_shape is None else tuple(self.image_shape)
        if np.prod(shape) != rows.shape[1]:
            raise ValueError(
                f"rows of {rows.shape[1]} numbers are no images of shape {shape}; give another image_shape"
            )
        width = self._high - self._low
        scaled = (rows.astype(np.float64) - self._low) / width if width > 0 else np.zeros(rows.shape)
        pixels = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
        # A channel is added to grey images: `(N, 1, 3)` could be one image in colour as well as N grey ones.
        return pixels.reshape(len(rows), *shape, *([1] if len(shape) == 2 else []))


def _are_arrays(images: Any) -> bool:
    """Whether these are numbers, and not paths or PIL images."""
    if isinstance(images, str | Path | Image.Image):
        return False
    first = images[0] if isinstance(images, Sequence | np.ndarray) and len(images) else None
    return not isinstance(first, str | Path | Image.Image)
