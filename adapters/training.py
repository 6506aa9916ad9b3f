"""Fine-tune what `attach` made trainable: AdamW, warm-up, cosine decay, and the best epoch by validation.

With `out`, training survives being killed: it resumes after the last finished epoch and, on a CPU, ends with the very
weights that an uninterrupted run would have had.

No step waits for an accelerator: losses and predictions stay on it until the epoch ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from adapters.adapter import adapter_of, tuned_classes, tuned_parameters
from adapters.augmentation import Augment, augmentation_of
from adapters.checkpoint import start_from
from adapters.data import Batches, Reader, Workers, transform_of
from adapters.data.kinds import check_same_numbers
from adapters.data.labels import check_range
from adapters.drop_path import dropping_paths
from adapters.errors import ConfigError, StopTraining, TrainingError
from adapters.evaluation import Forward
from adapters.linear_probe import features_suffice, from_features, with_features
from adapters.losses import LossName, Sampling, chosen_loss, chosen_sampling
from adapters.metrics import Metrics
from adapters.precision import computing_in, explaining
from adapters.processes import processes_of
from adapters.proof import prove
from adapters.run import Run, TrainingSettings
from adapters.settings import COUNT, SHARE, checked


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        best_epoch: The epoch whose weights the model now has, counted from 1: the best one, or the last.
        best: How it did on the validation images (in training, if there are none).
        history: One record for each epoch, as in `metrics.jsonl`.
        seconds: Time spent training, over all resumptions.
        unreadable: Names of training and validation images that were left out because they could not be decoded.
    """

    best_epoch: int
    best: Metrics
    history: list[dict[str, float]]
    seconds: float
    unreadable: tuple[str, ...] = ()

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """For each epoch, the validation accuracy and the seconds that it took."""
        return tuple((round(record["accuracy"], 4), round(record["seconds"], 3)) for record in self.history)


def fit(
    model: nn.Module,
    train: Any,
    val: Any = None,
    *,
    batch_size: int | None = None,
    label_smoothing: float = 0.0,
    drop_path: float = 0.0,
    patience: int | None = None,
    monitor: str = "auto",
    keep: Literal["best", "last"] = "best",
    augment: Augment | None = None,
    loss: LossName = "auto",
    sampling: Sampling = "uniform",
    autocast: torch.dtype | None = None,
    workers: Workers = "auto",
    compile: bool = False,
    accelerator: Any = None,
    init_from: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None = None,
    progress: bool = True,
) -> FitResult:
    """Tune the active adapter and classifier of `model`; learning rate, weight decay, epochs and the like stand in its
    config.

    Args:
        model: What `attach` gave, on the device to train on.
        train: Map-style dataset of (image, label), a Hugging Face dataset with such columns, or `Batches` of one; PIL
            images become RGB, upright, and go through the backbone's own preprocessing. Labels are class numbers, or
            rows of 0 and 1 where an image may be of several classes or none.
        val: The same, for choosing the best epoch. Without it the last epoch is kept.
        batch_size: Images in a step, over all processes; that of the config if not given.
        label_smoothing: Share of the target spread over all classes.
        drop_path: Rate at which the last block's residual branches are left out; earlier blocks' less.
        patience: Stop after so many epochs without a better one on `val`.
        monitor: What makes an epoch the best: `accuracy`; for imbalanced tasks `mean_class_accuracy` or `macro_f1`; for
            several labels an image `mean_average_precision`, which `auto` is there, and `accuracy` otherwise.
        keep: Which epoch's weights the model ends with: the `best` one on `val`, or the `last`, with which `val` only
            watches.
        augment: What is done with training images, as in the config if not given: `none`; `light` crops and flips;
            `timm` adds RandAugment, random erasing and, where an image has one label, Mixup and CutMix (see
            `adapters.augmentation`). Flips make other classes of letters and signs.
        loss: `cross_entropy`; `weighted_cross_entropy`, where all classes count the same; `binary_cross_entropy` for
            several labels an image; `auto` for what fits the labels, unweighted.
        sampling: Draw each training image once an epoch (`uniform`), or all classes equally often (`balanced`).
        autocast: Compute in this type where that is safe, such as `torch.bfloat16`; weights stay as they are.
        workers: Processes that read and augment images; 0 to do it between the steps. No result depends on it.
        compile: Compile the model first; pays off in long trainings.
        accelerator: An `accelerate.Accelerator`, to train in several processes. All of them call `fit`; `out` is
            written by the first.
        init_from: Directory of an adapter that was tuned on another task, to start from; of the same method and
            sizes. The classifier starts anew.
        seed: Fixes the order of the images, their augmentation and the dropout.
        out: Directory for `metrics.jsonl` and the state to resume from.
        on_epoch: Called after every epoch with the model and the epoch's record, such as what
            `adapters.training_log` gives. It may raise `StopTraining` to end the training there.
        progress: Show a progress bar on standard error.

    Raises:
        TrainingError: labels do not fit the classifier, an image cannot be read, or the loss becomes NaN (the best
            weights so far are kept; it is noticed when the epoch ends).
        CheckpointError: `out` holds a training on other images or of another configuration, or `metrics.jsonl` of none,
            or nothing tells whether the images are the same; or `init_from` does not fit.
        ConfigError: a number is out of range; `monitor` is none of the metrics; `augment`, `loss`, `sampling` or `keep`
            is unknown or does not fit the labels; or `patience` is given without `val` or where the last epoch is kept.
    """
    known = [field.name for field in dataclasses.fields(Metrics)]
    if monitor not in ("auto", *known):
        raise ConfigError(f"monitor={monitor!r} is not measured; choose from {', '.join(known)}")
    _check_keeping(keep, patience, has_validation=val is not None)
    config = adapter_of(model).config
    batch_size = checked("batch_size", config.batch_size if batch_size is None else batch_size, COUNT)
    label_smoothing = checked("label_smoothing", label_smoothing, SHARE)
    drop_path = checked("drop_path", drop_path, SHARE)
    augmenting: str = config.augment if augment is None else augment
    augmented = augmentation_of(model, augmenting)
    device = next(model.parameters()).device
    if any(p.dtype is torch.float16 for p in tuned_parameters(model).values()):
        raise ConfigError("weights of float16 are too coarse to learn; tune model.float(), with autocast=torch.float16")
    processes = processes_of(accelerator, device, autocast)
    if init_from is not None:
        start_from(model, init_from)
    shown = Progress(console=Console(stderr=True), disable=not progress or processes.rank > 0)
    with shown as bars, ExitStack() as contexts:
        training = _read(train, model, "Reading training images", bars, workers)
        contexts.enter_context(explaining(model, training, autocast))
        validation = None if val is None else _read(val, model, "Reading validation images", bars, workers)
        multi_label = training.multi_label
        settings = TrainingSettings(
            batch_size=batch_size,
            label_smoothing=label_smoothing,
            drop_path=drop_path,
            monitor=_chosen_monitor(monitor, multi_label),
            keep=keep,
            autocast=str(autocast),
            augment=augmenting,
            loss=chosen_loss(loss, multi_label),
            sampling=chosen_sampling(sampling, multi_label),
            init_from=str(init_from),
            seed=seed,
        )
        _check_labels(training, validation, tuned_classes(model))
        if not adapter_of(model).proven:
            prove(model, training.take(torch.zeros(1, dtype=torch.long)).images.to(device))
        # Parts of one task both name what the whole one left out.
        unreadable = tuple(dict.fromkeys(training.unreadable + (() if validation is None else validation.unreadable)))
        forward: Forward = processes.wrap(model)
        run = Run(model, training, validation, settings, processes, out=out)
        if compile:
            forward = torch.compile(forward)
        is_steady = processes.count == 1 and augmented is None and not drop_path
        if is_steady and features_suffice(model, training, validation):
            training = with_features(training, model, workers)
            validation = validation and with_features(validation, model, workers)
            forward = from_features(model)
        learned = Reader(training, workers=workers, device=device, augment=augmented, seed=seed)
        watched = None if validation is None else Reader(validation, workers=workers, device=device)
        what = f"Tuning {run.config.label}"
        bar = bars.add_task(what, total=run.epochs * run.steps_per_epoch, completed=run.step)
        # The caller's generator is none of our business.
        with torch.random.fork_rng(), dropping_paths(model, drop_path), computing_in(model, autocast) as precision:
            while len(run.history) < run.epochs and not run.is_stale(patience):
                record = run.epoch(learned, watched, forward, precision, lambda: bars.advance(bar))
                bars.update(bar, description=f"{what}, val {record[settings.monitor]:.1%}")
                try:
                    if on_epoch is not None:
                        on_epoch(model, record)
                except StopTraining:
                    break
    epoch, best = run.finish()
    return FitResult(epoch, best, run.history, sum(record["seconds"] for record in run.history), unreadable)


def _check_keeping(keep: str, patience: int | None, *, has_validation: bool) -> None:
    if keep not in ("best", "last"):
        raise ConfigError(f"keep={keep!r} is no epoch; choose from best, last")
    if patience is None:
        return
    checked("patience", patience, COUNT)
    if keep == "last":
        raise ConfigError(
            f"patience={patience} ends training at a best epoch, but the last one is kept; give one of both"
        )
    if not has_validation:
        raise ConfigError(f"patience={patience} waits for a better epoch on val, but val is missing; give both or none")


def _chosen_monitor(monitor: str, multi_label: bool) -> str:
    if monitor == "auto":
        return "mean_average_precision" if multi_label else "accuracy"
    if monitor == "mean_average_precision" and not multi_label:
        raise ConfigError(f"monitor={monitor!r} is of several labels an image, but here each has one")
    return monitor


def _read(dataset: Any, model: nn.Module, what: str, bars: Progress, workers: Workers) -> Batches:
    if isinstance(dataset, Batches):
        return dataset
    bar = bars.add_task(what, total=len(dataset) if hasattr(dataset, "__len__") else None)
    return Batches(dataset, transform_of(model), lambda done: bars.update(bar, completed=done), workers=workers)


def _check_labels(training: Batches, validation: Batches | None, num_classes: int) -> None:
    for name, batches in (("training", training), ("validation", validation)):
        if batches is not None and batches.known_labels is not None:
            check_range(batches.known_labels, num_classes, name)
    if validation is None:
        return
    names, others = training.class_names(), validation.class_names()
    if names is not None and others is not None:
        check_same_numbers(names, others, "the training images", "the validation images")
    if training.multi_label != validation.multi_label:
        raise TrainingError("training and validation images must both have one label an image, or both several")
    if training.known_labels is not None and validation.known_labels is not None:
        unknown = _present(validation.known_labels) - _present(training.known_labels)
        if unknown:
            raise TrainingError(f"class {min(unknown)} is in the validation images but not in the training images")


def _present(labels: Tensor) -> set[int]:
    return set((labels.any(dim=0).nonzero().flatten() if labels.ndim == 2 else labels).tolist())
