"""One configuration tuned on a task, and merged where the method can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId, FitResult, Metrics
from adapters.data import Transform, transform_of
from selection.evidence.backbone import load_backbone
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.result import Recommendation
from selection.results.description import Description, Measured
from selection.results.folder import describe_recommendation, preprocessing_of, versions, write_result
from selection.results.lock import alone_in
from selection.tuning.scores import scores_of
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
    """

    model: nn.Module
    fit: FitResult
    merged: nn.Module | None
    out: Path | None
    test: Metrics | None = None


def tune(
    task: Task | Splits | str | Path,
    backbone: str | nn.Module,
    config: AdapterConfig,
    *,
    init_from: str | Path | None = None,
    compute: Compute | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None = None,
    progress: bool = True,
) -> Tuned:
    """Tune one configuration on a task, score it on test images if there are any, and merge if the method can.

    The last epoch's weights are kept, as they are at least as good as those of the best epoch (docs/pilot.md), and
    leave the validation accuracy an honest one: nothing was chosen by it. `init_from` and `on_epoch` are those of
    `adapters.fit`, the other arguments are those of `auto_tune`.
    """
    splits, model = splits_of(task), load_backbone(backbone)
    with alone_in(out):
        return tune_alone(
            splits,
            model,
            config,
            init_from=init_from,
            compute=compute or Compute(),
            out=None if out is None else Path(out),
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
    seed: int,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None,
    progress: bool,
) -> Tuned:
    """`tune` for who has the folder to himself already."""
    splits.train.learnable()
    model.to(compute.device_for(next(model.parameters()).device))
    splits = decoded(splits, transform_of(model), compute=compute, progress=progress)
    train, validation = splits.train, splits.validation
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed=seed)
    scores = scores_of(train, model, config, compute=compute, seed=seed)
    adapters.attach(model, config, train.num_classes, seed=seed, scores=scores)
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
        out=out,
        on_epoch=on_epoch,
        progress=progress,
    )
    if out is not None:  # before merging, so that whatever may go wrong there, the training is not lost
        adapters.save(model, out, class_names=train.class_names)
    score = None
    if splits.test is not None:
        score = adapters.evaluate(model, splits.test, autocast=compute.autocast_dtype, workers=compute.workers)
    merged = None if adapters.METHODS[config.method].cannot_merge else adapters.merge(model).eval()
    tuned = Tuned(model, result, merged, out, score)
    if out is not None:
        write(tuned, splits, out)
    return tuned


def splits_of(task: Task | Splits | str | Path) -> Splits:
    """The splits as they are, a task's images as those to learn from, or what lies at a path."""
    if isinstance(task, Splits):
        return task
    return Splits(task) if isinstance(task, Task) else read_splits(task)


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


def write(tuned: Tuned, splits: Splits, out: Path, recommendation: Recommendation | None = None) -> None:
    """Everything that a result is: adapter, merged model, description, card and curves."""
    write_result(out, tuned.model, tuned.merged, describe(tuned, splits, recommendation), tuned.fit.history)


def describe(tuned: Tuned, splits: Splits, recommendation: Recommendation | None = None) -> Description:
    """What a tuned model is, for the result folder."""
    train, backbone = splits.train, BackboneId.of_model(tuned.model)
    counts = {"training": len(train)}
    if splits.validation is not None:
        counts["validation"] = len(splits.validation)
    else:
        counts["validation"] = len(train.split(VALIDATION_SHARE)[1])
        counts["training"] -= counts["validation"]
    if splits.test is not None:
        counts["test"] = len(splits.test)
    return Description(
        task=train.name,
        class_names=train.class_names,
        multi_label=train.multi_label,
        backbone=str(backbone),
        backbone_fingerprint=backbone.fingerprint,
        config=adapters.adapter_of(tuned.model).config.to_dict(),
        preprocessing=preprocessing_of(tuned.model),
        num_images=counts,
        validation=_measured(tuned.fit.best, counts["validation"]),
        test=None if tuned.test is None else _measured(tuned.test, counts["test"]),
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        recommendation={} if recommendation is None else describe_recommendation(recommendation),
        versions=versions(),
    )


def _measured(metrics: Metrics, num_images: int) -> Measured:
    others = {name: value for name, value in vars(metrics).items() if name != "accuracy" and value is not None}
    return Measured(metrics.accuracy, num_images, others)
