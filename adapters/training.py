"""Fine-tune what `attach` made trainable: AdamW, warm-up, cosine decay, and the best epoch by validation.

With `out`, training survives being killed: it resumes after the last finished epoch and, on a CPU, ends with the very
weights that an uninterrupted run would have had.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.adapter import adapter_of, tuned_parameters, tuned_tensors
from adapters.checkpoint import load_tuned, start_from, tuned_classes, write_atomically
from adapters.data import Batches, transform_of
from adapters.drop_path import dropping_paths
from adapters.errors import CheckpointError, ConfigError, TrainingError
from adapters.fingerprint import backbone_fingerprint
from adapters.methods.own_weights import OwnWeights
from adapters.metrics import Metrics, metrics_of
from adapters.processes import OneProcess, processes_of
from adapters.proof import prove
from adapters.sites import classifier_names

WARMUP_SHARE = 0.1  # of all steps
GRADIENT_CLIP = 1.0  # largest norm of a step's gradient

Forward = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        best_epoch: The epoch whose weights the model now has, counted from 1: the best one, or the last.
        best: How it did on the validation images (in training, if there are none).
        history: One record for each epoch, as in `metrics.jsonl`.
        seconds: Time spent training, over all resumptions.
    """

    best_epoch: int
    best: Metrics
    history: list[dict[str, float]]
    seconds: float

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """For each epoch, the validation accuracy and the seconds that it took."""
        return tuple((round(record["accuracy"], 4), round(record["seconds"], 3)) for record in self.history)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What makes two trainings of the same model on the same images the same."""

    batch_size: int
    label_smoothing: float
    drop_path: float
    monitor: str
    keep: str
    autocast: str
    init_from: str
    seed: int


def fit(
    model: nn.Module,
    train: Any,
    val: Any = None,
    *,
    batch_size: int = 64,
    label_smoothing: float = 0.0,
    drop_path: float = 0.0,
    patience: int | None = None,
    monitor: str = "accuracy",
    keep: Literal["best", "last"] = "best",
    autocast: torch.dtype | None = None,
    compile: bool = False,
    accelerator: Any = None,
    init_from: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None = None,
    progress: bool = True,
) -> FitResult:
    """Tune the active adapter and classifier of `model`; learning rate, weight decay and epochs stand in its config.

    Args:
        model: What `attach` gave, on the device to train on.
        train: Map-style dataset of (image, label); PIL images go through the backbone's own preprocessing.
        val: The same, for choosing the best epoch. Without it the last epoch is kept.
        batch_size: Images in a step, over all processes.
        label_smoothing: Share of the target spread over all classes.
        drop_path: Rate at which the last block's residual branches are left out; earlier blocks' less.
        patience: Stop after so many epochs without a better one on `val`.
        monitor: What makes an epoch the best: `accuracy`, `mean_class_accuracy` or `macro_f1`, the latter two for
            imbalanced tasks.
        keep: Which epoch's weights the model ends with: the `best` one on `val`, or the `last`, with which `val` only
            watches.
        autocast: Compute in this type where that is safe, such as `torch.bfloat16`; weights stay as they are.
        compile: Compile the model first; pays off in long trainings.
        accelerator: An `accelerate.Accelerator`, to train in several processes. All of them call `fit`; `out` is
            written by the first.
        init_from: Directory of an adapter that was tuned on another task, to start from; of the same method and
            sizes. The classifier starts anew.
        seed: Fixes the order of the images and the dropout.
        out: Directory for `metrics.jsonl` and the state to resume from.
        on_epoch: Called after every epoch with the model and the epoch's record.
        progress: Show a progress bar on standard error.

    Raises:
        TrainingError: labels do not fit the classifier, or the loss becomes NaN (the best weights so far are kept).
        CheckpointError: `out` holds the training of another configuration, or `init_from` does not fit.
        ConfigError: `monitor` is none of the metrics, or `patience` is given where the last epoch is kept.
    """
    known = [field.name for field in dataclasses.fields(Metrics)]
    if monitor not in known:
        raise ConfigError(f"monitor={monitor!r} is not measured; choose from {', '.join(known)}")
    if keep == "last" and patience is not None:
        raise ConfigError(
            f"patience={patience} ends training at a best epoch, but the last one is kept; give one of both"
        )
    settings = _Settings(batch_size, label_smoothing, drop_path, monitor, keep, str(autocast), str(init_from), seed)
    processes = processes_of(accelerator)
    if init_from is not None:
        start_from(model, init_from)
    with Progress(console=Console(stderr=True), disable=not progress or processes.rank > 0) as bars:
        training = _read(train, model, "Reading training images", bars)
        validation = None if val is None else _read(val, model, "Reading validation images", bars)
        _check_labels(training, validation, tuned_classes(model))
        if not adapter_of(model).proven:
            prove(model, training.take(torch.zeros(1, dtype=torch.long))[0].to(next(model.parameters()).device))
        run = _Run(model, training, validation, settings, processes, autocast=autocast, out=out)
        forward: Forward = processes.wrap(model)
        run.optimiser = processes.wrap_optimiser(run.optimiser)
        if compile:
            forward = torch.compile(forward)
        if processes.count == 1 and _features_suffice(model, training, validation):
            training, forward = _with_features(training, model), model.get_submodule(classifier_names(model)[0])
            validation = validation and _with_features(validation, model)
        steps = math.ceil(len(training) / batch_size)
        what = f"Tuning {run.config.label}"
        bar = bars.add_task(what, total=run.epochs * steps)
        bars.update(bar, completed=len(run.history) * steps)
        run.prepare(steps)
        # The caller's generator is none of our business.
        with torch.random.fork_rng(), dropping_paths(model, drop_path):
            while len(run.history) < run.epochs and not run.is_stale(patience):
                record = run.epoch(training, validation, forward, lambda: bars.advance(bar))
                bars.update(bar, description=f"{what}, val {record['accuracy']:.1%}")
                if on_epoch is not None:
                    on_epoch(model, record)
    return run.finish()


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Any, *, batch_size: int = 128, autocast: torch.dtype | None = None) -> Metrics:
    """How well a model does on a map-style dataset of (image, label).

    Args:
        model: Any classifier, on the device to compute on.
        dataset: Map-style dataset of (image, label).
        batch_size: Images at once.
        autocast: Compute in this type where that is safe, such as `torch.bfloat16`.
    """
    batches = dataset if isinstance(dataset, Batches) else Batches(dataset, transform_of(model))
    model.eval()
    device = next(model.parameters()).device
    with nullcontext() if autocast is None else _autocast(model, device.type, autocast):
        return _measure(batches, model, OneProcess(), device, batch_size)


class _Run:
    """The state of one training: optimiser, history and the best weights so far, on disk after every epoch."""

    def __init__(
        self,
        model: nn.Module,
        training: Batches,
        validation: Batches | None,
        settings: _Settings,
        processes: OneProcess,
        *,
        autocast: torch.dtype | None,
        out: str | Path | None,
    ) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        self.config = adapter_of(model).config
        assert self.config.epochs is not None  # the config has filled it in
        self.epochs = self.config.epochs
        self.device = next(model.parameters()).device
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        if autocast is not None:
            self.autocast = lambda: _autocast(model, self.device.type, autocast)
        self.out = None if out is None else Path(out)
        self.optimiser = create_optimizer_v2(
            model, opt="adamw", lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.parameters = list(tuned_parameters(model).values())
        self.num_classes = tuned_classes(model)
        self.history: list[dict[str, float]] = []
        self.best = self._copy()  # should the very first epoch fail, the model is as it was
        if self.out is not None:
            # Only a run on the same images and the same backbone is the same run.
            identity = self.config.to_dict() | dataclasses.asdict(settings)
            identity |= {"images": training.fingerprint(), "backbone": backbone_fingerprint(model)}
            identity |= {"validation": None if validation is None else validation.fingerprint()}
            self.identity = json.dumps(identity, sort_keys=True)
            self._resume(self.out / "training.pt")

    def prepare(self, steps_per_epoch: int) -> None:
        """Lay out the learning rate over all steps."""
        total = self.epochs * steps_per_epoch
        warmup = max(1, round(WARMUP_SHARE * total))
        self.schedule = CosineLRScheduler(
            self.optimiser, t_initial=total, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
        )
        self.step = len(self.history) * steps_per_epoch

    def is_stale(self, patience: int | None) -> bool:
        """Whether so many epochs have gone by since the best one."""
        best = max((r["epoch"] for r in self.history if r.get("best")), default=0)
        return patience is not None and len(self.history) - best >= patience

    def epoch(
        self, training: Batches, validation: Batches | None, forward: Forward, advance: Callable[[], object]
    ) -> dict[str, float]:
        """Train once over all images, measure, and save; gives the epoch's record."""
        start, number = time.perf_counter(), len(self.history) + 1
        _train_mode(self.model)
        # Each epoch has its own seed, so that a resumed run draws what an uninterrupted one would have drawn.
        torch.manual_seed(self.settings.seed * 100_003 + number - 1)
        order = torch.randperm(len(training))
        total_loss, predicted = 0.0, torch.zeros(len(training), dtype=torch.long)
        for batch in order.split(self.settings.batch_size):
            loss, logits, mine = self._step(training, batch, forward, number)
            predicted[mine] = logits.argmax(dim=1).cpu()
            total_loss += loss * len(batch)
            advance()
        if validation is None:
            metrics = metrics_of(self.processes.sum(predicted).cpu(), training.labels())
        else:
            self.model.eval()
            with self.autocast(), torch.no_grad():
                metrics = _measure(validation, forward, self.processes, self.device, 2 * self.settings.batch_size)
        record = {"epoch": number, "loss": total_loss / len(training), **dataclasses.asdict(metrics)}
        record |= {"learning_rate": self.optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
        earlier = max((r[self.settings.monitor] for r in self.history), default=-1.0)
        if validation is None or self.settings.keep == "last" or record[self.settings.monitor] > earlier:
            self.best = self._copy()
            record["best"] = 1.0
        self.history.append(record)
        self._save()
        return record

    def finish(self) -> FitResult:
        """Give the model its best weights."""
        load_tuned(self.model, self.best, "the best epoch")
        self.model.eval()
        best = [r for r in self.history if r.get("best")][-1]
        metrics = Metrics(**{field.name: best[field.name] for field in dataclasses.fields(Metrics)})
        return FitResult(int(best["epoch"]), metrics, self.history, sum(record["seconds"] for record in self.history))

    def _step(self, training: Batches, batch: Tensor, forward: Forward, epoch: int) -> tuple[float, Tensor, Tensor]:
        """One step of the optimiser; gives the batch's loss, and this process's logits and images."""
        self.step += 1
        self.schedule.step_update(self.step)
        # A process without an image of the last batch takes its first one, and counts it as nothing.
        share = self.processes.share(batch)
        mine = share if len(share) else batch[:1]
        images, labels = training.take(mine)
        _check_range(labels, self.num_classes, "training")
        with self.autocast():
            logits = forward(images.to(self.device))
            losses = F.cross_entropy(
                logits.to(torch.promote_types(logits.dtype, torch.float32)),
                labels.to(self.device),
                label_smoothing=self.settings.label_smoothing,
                reduction="sum",
            )
        # Gradients are averaged over the processes, so that each has to count for as many.
        loss = losses * (self.processes.count / len(batch) if len(share) else 0.0)
        value = self.processes.sum(loss.detach()).item() / self.processes.count
        if not math.isfinite(value):
            load_tuned(self.model, self.best, "the best epoch")
            raise TrainingError(
                f"the loss became {value} at step {self.step} (epoch {epoch}); "
                "the best weights so far are kept, lower the learning rate"
            )
        self.optimiser.zero_grad()
        self.processes.backward(loss)
        self.processes.clip(self.parameters, GRADIENT_CLIP)
        self.optimiser.step()
        return value, logits.detach()[: len(share)], share

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in tuned_tensors(self.model).items()}

    def _save(self) -> None:
        if self.out is None or self.processes.rank > 0:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": self.identity,
            "tuned": {name: tensor.detach() for name, tensor in tuned_tensors(self.model).items()},
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


@contextmanager
def _autocast(model: nn.Module, device: str, dtype: torch.dtype) -> Iterator[None]:
    """Torch's autocast; on a CPU with attention as separate products, where the fused kernel takes twice as long."""
    fused = [m for m in model.modules() if device == "cpu" and getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        with torch.autocast(device, dtype):
            yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


def _read(dataset: Any, model: nn.Module, what: str, bars: Progress) -> Batches:
    if isinstance(dataset, Batches):
        return dataset
    bar = bars.add_task(what, total=len(dataset))
    return Batches(dataset, transform_of(model), lambda done: bars.update(bar, completed=done))


def _check_labels(training: Batches, validation: Batches | None, num_classes: int) -> None:
    for name, batches in (("training", training), ("validation", validation)):
        if batches is not None and batches.kept is not None:
            _check_range(batches.kept[1], num_classes, name)
    names, others = training.class_names(), None if validation is None else validation.class_names()
    if names is not None and others is not None and names != others:
        raise TrainingError(
            f"the classes of the validation images, {_listed(others)}, are not those of the training images, "
            f"{_listed(names)}; give them the same numbers with classes_of="
        )
    if validation is not None and training.kept is not None and validation.kept is not None:
        unknown = set(validation.kept[1].tolist()) - set(training.kept[1].tolist())
        if unknown:
            raise TrainingError(f"class {min(unknown)} is in the validation images but not in the training images")


def _check_range(labels: Tensor, num_classes: int, name: str) -> None:
    largest = int(labels.max())
    if largest >= num_classes:
        raise TrainingError(f"{name} label {largest} exceeds the classifier's {num_classes} classes")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _features_suffice(model: nn.Module, *datasets: Batches | None) -> bool:
    """Whether only one linear classifier learns, and its inputs can be kept in memory."""
    heads = classifier_names(model)
    only_head = len(heads) == 1 and all(name.startswith(f"{heads[0]}/") for name in tuned_tensors(model))
    return (
        only_head
        and isinstance(model.get_submodule(heads[0]), nn.Linear)
        and all(batches is None or batches.kept is not None for batches in datasets)
    )


@torch.no_grad()
def _with_features(batches: Batches, model: nn.Module, batch_size: int = 128) -> Batches:
    """The classifier's inputs instead of images: below it nothing learns, so they need computing only once."""
    model.eval()
    taken: list[Tensor] = []
    handle = model.get_submodule(classifier_names(model)[0]).register_forward_pre_hook(
        lambda _, args: taken.append(args[0].cpu())
    )
    device = next(model.parameters()).device
    try:
        for indices in torch.arange(len(batches)).split(batch_size):
            model(batches.take(indices)[0].to(device))
    finally:
        handle.remove()
    return batches.replaced(torch.cat(taken))


def _train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms whose statistics are not tuned: they keep those that they have."""
    model.train()
    own = {
        id(part.module)
        for part in adapter_of(model).parts
        if isinstance(part.adapter, OwnWeights) and part.adapter.tunes_statistics
    }
    for module in model.modules():
        if isinstance(module, _BatchNorm) and id(module) not in own:
            module.eval()


def _measure(
    batches: Batches, forward: Forward, processes: OneProcess, device: torch.device, batch_size: int
) -> Metrics:
    predicted = torch.zeros(len(batches), dtype=torch.long)
    for mine in processes.share(torch.arange(len(batches))).split(batch_size):
        predicted[mine] = forward(batches.take(mine)[0].to(device)).argmax(dim=1).cpu()
    return metrics_of(processes.sum(predicted).cpu(), batches.labels())
