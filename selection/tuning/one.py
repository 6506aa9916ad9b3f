"""One configuration tuned on a task, and merged where the method can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId, FitResult, Metrics
from adapters.data import Transform, preprocessing_of, transform_of
from adapters.losses import LossName, Sampling
from adapters.merge import why_unmergeable
from adapters.metrics import metrics_of
from selection.errors import SelectionError
from selection.evidence.attached import attach_for
from selection.evidence.backbone import load_backbone, source_of
from selection.evidence.validation_split import VALIDATION_SHARE, split_sizes
from selection.recommendation.result import Recommendation
from selection.results.description import Description, Measured
from selection.results.folder import describe_recommendation, versions, write_result
from selection.results.known_outputs import outputs_of
from selection.results.lock import alone_in, refuse_among_images
from selection.results.result import probabilities_of
from selection.results.validation import Validation
from task2vec import Compute, Splits, Task, read_splits


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A tuned model and how it went.

    Attributes:
        model: The backbone with its tuned adapter and classifier, in evaluation mode.
        fit: The training's history and the epoch that was kept.
        merged: The plain model, if the method can merge.
        out: Where adapter, metrics and merged weights were written; None if nowhere.
        test: How it does on test images, which played no part before; None if there were none.
        by_class: The same class by class, where an image has one label.
    """

    model: nn.Module
    fit: FitResult
    merged: nn.Module | None
    out: Path | None
    test: Metrics | None = None
    by_class: Validation | None = None


def tune(
    task: Task | Splits | str | Path,
    backbone: str | nn.Module,
    config: AdapterConfig,
    *,
    init_from: str | Path | None = None,
    compute: Compute | None = None,
    out: str | Path | None = None,
    loss: LossName = "auto",
    sampling: Sampling = "uniform",
    log: str | None = None,
    seed: int = 0,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None = None,
    progress: bool = True,
) -> Tuned:
    """Tune one configuration on a task, score it on test images if there are any, and merge if the method can.

    The last epoch's weights are kept, as they are at least as good as those of the best epoch (docs/pilot.md), and
    leave the validation accuracy an honest one: nothing was chosen by it. `init_from`, `loss`, `sampling` and
    `on_epoch` are those of `adapters.fit`, `log` is the kind of `adapters.training_log`, and the other arguments are
    those of `auto_tune`.
    """
    splits, model = splits_of(task, out), load_backbone(backbone)
    with alone_in(out):
        return tune_alone(
            splits,
            model,
            config,
            init_from=init_from,
            compute=compute or Compute(),
            out=None if out is None else Path(out),
            loss=loss,
            sampling=sampling,
            log=log,
            seed=seed,
            on_epoch=on_epoch,
            progress=progress,
        )


def tune_alone(
    splits: Splits,
    model: nn.Module,
    config: AdapterConfig,
    *,
    init_from: str | Path | None,
    compute: Compute,
    out: Path | None,
    loss: LossName,
    sampling: Sampling,
    log: str | None,
    seed: int,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None,
    progress: bool,
) -> Tuned:
    """`tune` for callers that hold the lock on `out` already."""
    splits.train.learnable()
    logged = _log_to(log, out)
    model.to(compute.device_for(next(model.parameters()).device))
    splits = decoded(splits, transform_of(model), compute=compute, progress=progress)
    train, validation = splits.train, splits.validation
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed=seed)
    attach_for(train, model, config, train.num_classes, compute=compute, seed=seed, progress=progress)
    result = adapters.fit(
        model,
        train,
        validation,
        init_from=init_from,
        keep="last",
        autocast=compute.autocast_dtype,
        workers=compute.workers,
        compile=compute.compile,
        seed=seed,
        loss=loss,
        sampling=sampling,
        out=out,
        on_epoch=_both(logged, on_epoch),
        progress=progress,
    )
    if out is not None:  # before merging, so that whatever may go wrong there, the training is not lost
        adapters.save(model, out, class_names=train.class_names)
    score, by_class = (None, None) if splits.test is None else _tested(model, splits.test, compute)
    tuned = Tuned(model, result, merged_of(model), out, score, by_class)
    if out is not None:
        write(tuned, splits, out)
    return tuned


def merged_of(model: nn.Module) -> nn.Module | None:
    """The plain model that a tuned one merges into; None where its method cannot, or not into such layers."""
    return None if why_unmergeable(model) else adapters.merge(model).eval()


def _tested(model: nn.Module, test: Task, compute: Compute) -> tuple[Metrics, Validation | None]:
    """How a model does on test images, over all and class by class."""
    if test.multi_label:
        return adapters.evaluate(model, test, autocast=compute.autocast_dtype, workers=compute.workers), None
    found, unreadable = probabilities_of(
        model, transform_of(model), test, num_classes=test.num_classes, compute=compute
    )
    labels = np.delete(test.labels, list(unreadable))
    by_class = Validation.of(found, labels, test.class_names, tuple(unreadable.values()))
    return metrics_of(torch.from_numpy(found.argmax(axis=1)), torch.from_numpy(labels)), by_class


def _log_to(kind: str | None, out: Path | None) -> adapters.logs.Log | None:
    if kind is None:
        return None
    if out is None:
        raise SelectionError(f"log={kind!r} needs a folder to write to; give out= too")
    return adapters.training_log(kind, out)


def _both(
    first: Callable[[nn.Module, dict[str, float]], object] | None,
    second: Callable[[nn.Module, dict[str, float]], object] | None,
) -> Callable[[nn.Module, dict[str, float]], object] | None:
    if first is None or second is None:
        return first or second

    def call(model: nn.Module, record: dict[str, float]) -> None:
        first(model, record)
        second(model, record)

    return call


def splits_of(task: Task | Splits | str | Path, out: str | Path | None) -> Splits:
    """The splits as they are, a task's images as those to learn from, or what lies at a path.

    Raises:
        SelectionError: `out`, where the run will write, lies among the images.
    """
    if isinstance(task, Splits):
        return task
    if isinstance(task, Task):
        return Splits(task)
    refuse_among_images(out, task)
    return read_splits(task)


def decoded(splits: Splits, *transforms: Transform, compute: Compute, progress: bool) -> Splits:
    """Splits whose images are decoded once for all who are going to read them; unreadable ones are left out."""
    return dataclasses.replace(
        splits,
        **{
            field.name: own.decoded(*transforms, workers=compute.workers, progress=progress)
            for field in dataclasses.fields(splits)
            if (own := getattr(splits, field.name)) is not None
        },
    )


def write(
    tuned: Tuned, splits: Splits, out: Path, recommendation: Recommendation | None = None, num_tries: int = 1
) -> None:
    """Everything that a result is: adapter, merged model, description, card and curves."""
    description = describe(tuned, splits, recommendation, num_tries)
    write_result(out, tuned.model, tuned.merged, description, tuned.fit.history)


def describe(
    tuned: Tuned, splits: Splits, recommendation: Recommendation | None = None, num_tries: int = 1
) -> Description:
    """What a tuned model is, for the result folder; the best one of so many tries."""
    train, backbone = splits.train, BackboneId.of_model(tuned.model)
    counts = dict(zip(("training", "validation"), split_sizes(splits), strict=True))
    if splits.test is not None:
        counts["test"] = len(splits.test)
    preprocessing, labels = preprocessing_of(tuned.model), train.num_classes if train.multi_label else 1
    return Description(
        task=train.name,
        class_names=train.class_names,
        multi_label=train.multi_label,
        backbone=str(backbone),
        backbone_fingerprint=backbone.fingerprint,
        backbone_source=source_of(tuned.model),
        config=adapters.adapter_of(tuned.model).config.to_dict(),
        preprocessing=preprocessing,
        num_images=counts,
        validation=Measured.of(tuned.fit.best, counts["validation"], labels),
        test=None if tuned.test is None else Measured.of(tuned.test, counts["test"], labels),
        test_by_class=() if tuned.by_class is None else tuple(tuned.by_class.to_dict()["classes"]),
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        num_tries=num_tries,
        recommendation={} if recommendation is None else describe_recommendation(recommendation),
        outputs=outputs_of(tuned.model if tuned.merged is None else tuned.merged, preprocessing["input_size"]),
        versions=versions(),
    )
