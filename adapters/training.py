"""Fine-tune what `attach` made trainable: AdamW, warm-up, cosine decay, and the best epoch by validation.

With `out`, training survives being killed: it resumes after the last finished epoch and, on a CPU, ends with the very
weights that an uninterrupted run would have had.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import adapter_of, tuned_parameters
from adapters.checkpoint import load_tuned, tuned_head, write_atomically
from adapters.data import Batches, transform_of
from adapters.errors import CheckpointError, TrainingError
from adapters.fingerprint import backbone_fingerprint
from adapters.sites import NORMS, classifier_name

WARMUP_SHARE = 0.1  # of all steps
GRADIENT_CLIP = 1.0  # largest norm of a step's gradient


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        best_epoch: The epoch whose weights the model now has, counted from 1.
        best_accuracy: Its top-1 accuracy on the validation images (on the training images if there are none).
        history: One record for each epoch, as in `metrics.jsonl`.
        seconds: Time spent training, over all resumptions.
    """

    best_epoch: int
    best_accuracy: float
    history: list[dict[str, float]]
    seconds: float


def fit(
    model: nn.Module,
    train: Any,
    val: Any = None,
    *,
    batch_size: int = 64,
    label_smoothing: float = 0.0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Tune the adapter and the classifier of `model`; learning rate, weight decay and epochs stand in its config.

    Args:
        model: What `attach` gave, on the device to train on.
        train: Map-style dataset of (image, label); PIL images go through the backbone's own preprocessing.
        val: The same, for choosing the best epoch. Without it the last epoch is kept.
        batch_size: Images in a step.
        label_smoothing: Share of the target spread over all classes.
        seed: Fixes the order of the images and the dropout.
        out: Directory for `metrics.jsonl` and the state to resume from.
        progress: Show a progress bar on standard error.

    Raises:
        TrainingError: labels do not fit the classifier, or the loss becomes NaN (the best weights so far are kept).
        CheckpointError: `out` holds the training of another configuration.
    """
    with Progress(console=Console(stderr=True), disable=not progress) as bars:
        training = _read(train, model, "Reading training images", bars)
        validation = None if val is None else _read(val, model, "Reading validation images", bars)
        _check_labels(training, validation, tuned_head(model).shape[0])
        run = _Run(model, training, seed=seed, batch_size=batch_size, label_smoothing=label_smoothing, out=out)
        forward: Callable[[Tensor], Tensor] = model
        if _only_classifier_learns(model) and all(b is None or b.kept for b in (training, validation)):
            training, forward = _with_features(training, model), model.get_submodule(classifier_name(model))
            validation = validation and _with_features(validation, model)
        steps = math.ceil(len(training) / batch_size)
        what = f"Tuning {run.config.label}"
        bar = bars.add_task(what, total=run.epochs * steps)
        bars.update(bar, completed=len(run.history) * steps)
        run.prepare(steps)
        with torch.random.fork_rng():  # the caller's generator is none of our business
            for epoch in range(len(run.history), run.epochs):
                record = run.epoch(epoch, training, validation, forward, lambda: bars.advance(bar))
                bars.update(bar, description=f"{what}, val {record['accuracy']:.1%}")
    return run.finish()


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Any, *, batch_size: int = 128) -> float:
    """Top-1 accuracy of a model on a map-style dataset of (image, label), in [0, 1]."""
    batches = dataset if isinstance(dataset, Batches) else Batches(dataset, transform_of(model))
    return _accuracy(model, batches, model, batch_size)


class _Run:
    """The state of one training: optimiser, history and the best weights so far, on disk after every epoch."""

    def __init__(
        self,
        model: nn.Module,
        training: Batches,
        *,
        seed: int,
        batch_size: int,
        label_smoothing: float,
        out: str | Path | None,
    ) -> None:
        self.model, self.seed, self.batch_size, self.label_smoothing = model, seed, batch_size, label_smoothing
        self.config = adapter_of(model).config
        assert self.config.epochs is not None  # the config has filled it in
        self.epochs = self.config.epochs
        self.device = next(model.parameters()).device
        self.out = None if out is None else Path(out)
        self.optimiser = create_optimizer_v2(
            model, opt="adamw", lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        if self.out is not None:
            # Only a run on the same images and the same backbone is the same run.
            settings = self.config.to_dict() | {"seed": seed, "batch_size": batch_size, "smoothing": label_smoothing}
            settings |= {"images": training.fingerprint(), "backbone": backbone_fingerprint(model)}
            self.identity = json.dumps(settings, sort_keys=True)
            self._resume(self.out / "training.pt")

    def prepare(self, steps_per_epoch: int) -> None:
        """Lay out the learning rate over all steps."""
        total = self.epochs * steps_per_epoch
        warmup = max(1, round(WARMUP_SHARE * total))
        self.schedule = CosineLRScheduler(
            self.optimiser, t_initial=total, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
        )
        self.step = len(self.history) * steps_per_epoch

    def epoch(
        self,
        number: int,
        training: Batches,
        validation: Batches | None,
        forward: Callable[[Tensor], Tensor],
        advance: Callable[[], object],
    ) -> dict[str, float]:
        """Train once over all images, measure, and save; gives the epoch's record."""
        start, total_loss = time.perf_counter(), 0.0
        _train_mode(self.model)
        # Each epoch has its own seed, so that a resumed run draws what an uninterrupted one would have drawn.
        torch.manual_seed(self.seed * 100_003 + number)
        order = torch.randperm(len(training)).tolist()
        for images, labels in training.batches(order, self.batch_size):
            self.step += 1
            self.schedule.step_update(self.step)
            logits = forward(images.to(self.device))
            loss = F.cross_entropy(logits, labels.to(self.device), label_smoothing=self.label_smoothing)
            if not torch.isfinite(loss):
                if self.best:
                    load_tuned(self.model, self.best, "the best epoch")
                raise TrainingError(
                    f"the loss became {loss.item()} at step {self.step} (epoch {number + 1}); "
                    "the best epoch so far is kept, lower the learning rate"
                )
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(list(tuned_parameters(self.model).values()), GRADIENT_CLIP)
            self.optimiser.step()
            total_loss += loss.item() * len(labels)
            advance()
        measured = training if validation is None else validation
        record = {
            "epoch": number + 1,
            "loss": total_loss / len(training),
            "accuracy": _accuracy(self.model, measured, forward, 2 * self.batch_size),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "seconds": time.perf_counter() - start,
        }
        earlier = max((r["accuracy"] for r in self.history), default=-1.0)
        if validation is None or record["accuracy"] > earlier:
            self.best = {name: p.detach().clone() for name, p in tuned_parameters(self.model).items()}
            record["best"] = 1.0
        self.history.append(record)
        self._save()
        return record

    def finish(self) -> FitResult:
        """Give the model its best weights."""
        load_tuned(self.model, self.best, "the best epoch")
        self.model.eval()
        best = [r for r in self.history if r.get("best")][-1]
        return FitResult(
            int(best["epoch"]), best["accuracy"], self.history, sum(record["seconds"] for record in self.history)
        )

    def _save(self) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": self.identity,
            "tuned": {name: p.detach() for name, p in tuned_parameters(self.model).items()},
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
        }
        write_atomically(self.out / "training.pt", lambda path: torch.save(state, path))
        lines = "".join(json.dumps(record) + "\n" for record in self.history)
        write_atomically(self.out / "metrics.jsonl", lambda path: path.write_text(lines))

    def _resume(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            identity = state["identity"]
        except Exception as error:  # a damaged file fails in many ways, all with the same remedy
            raise CheckpointError(f"cannot resume from {path} ({error}); remove it") from error
        if identity != self.identity:
            raise CheckpointError(
                f"{path} is of a training with other images, backbone or settings; remove it or give another directory"
            )
        load_tuned(self.model, state["tuned"], str(path))
        self.optimiser.load_state_dict(state["optimiser"])
        self.history, self.best = state["history"], state["best"]


def _read(dataset: Any, model: nn.Module, what: str, bars: Progress) -> Batches:
    if isinstance(dataset, Batches):
        return dataset
    bar = bars.add_task(what, total=len(dataset))
    return Batches(dataset, transform_of(model), lambda done: bars.update(bar, completed=done))


def _check_labels(training: Batches, validation: Batches | None, num_classes: int) -> None:
    for name, batches in (("training", training), ("validation", validation)):
        if batches is None or batches.kept is None:
            continue
        largest = int(batches.kept[1].max())
        if largest >= num_classes:
            raise TrainingError(f"{name} label {largest} exceeds the classifier's {num_classes} classes")
    if validation is not None and training.kept is not None and validation.kept is not None:
        unknown = set(validation.kept[1].tolist()) - set(training.kept[1].tolist())
        if unknown:
            raise TrainingError(f"class {min(unknown)} is in the validation images but not in the training images")


def _only_classifier_learns(model: nn.Module) -> bool:
    head = classifier_name(model)
    return all(name.startswith(f"{head}.") for name in tuned_parameters(model))


@torch.no_grad()
def _with_features(batches: Batches, model: nn.Module, batch_size: int = 128) -> Batches:
    """The classifier's inputs instead of images: below it nothing learns, so they need computing only once."""
    model.eval()
    taken: list[Tensor] = []
    handle = model.get_submodule(classifier_name(model)).register_forward_pre_hook(
        lambda _, args: taken.append(args[0].cpu())
    )
    device = next(model.parameters()).device
    try:
        for images, _ in batches.batches(range(len(batches)), batch_size):
            model(images.to(device))
    finally:
        handle.remove()
    return batches.replaced(torch.cat(taken))


def _train_mode(model: nn.Module) -> None:
    """Training mode, but for normalisation layers whose weights are frozen: they keep their stored statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS) and not any(p.requires_grad for p in module.parameters(recurse=False)):
            module.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, batches: Batches, forward: Callable[[Tensor], Tensor], batch_size: int) -> float:
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for images, labels in batches.batches(range(len(batches)), batch_size):
        correct += int((forward(images.to(device)).argmax(dim=1).cpu() == labels).sum())
    return correct / len(batches)
