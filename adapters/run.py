"""One training as a state: optimiser, history and the best weights so far, on disk after every epoch."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from adapters.adapter import adapter_of, tuned_classes, tuned_parameters, tuned_tensors
from adapters.augmentation import mixing_of
from adapters.checkpoint import load_tuned
from adapters.data import Batches, Reader
from adapters.data.labels import check_range
from adapters.errors import CheckpointError, TrainingError
from adapters.evaluation import Forward, decided, gathered, measure
from adapters.fingerprint import backbone_fingerprint
from adapters.losses import Loss, balancing_weights, drawn_order
from adapters.metrics import Metrics, metrics_of
from adapters.precision import Autocast
from adapters.processes import OneProcess
from task2vec_base import write_atomically

WARMUP_SHARE = 0.1  # of all steps
GRADIENT_CLIP = 1.0  # largest norm of a step's gradient
TRAINING = "training.pt"  # in the folder of a run: what it goes on from
METRICS = "metrics.jsonl"  # beside it: a line for each epoch


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What makes two trainings of the same model on the same images the same."""

    batch_size: int
    label_smoothing: float
    drop_path: float
    monitor: str
    keep: str
    autocast: str
    augment: str
    loss: str
    sampling: str
    init_from: str
    seed: int


class Run:
    """A training that goes on epoch by epoch.

    Args:
        model: What `attach` gave, on the device to train on.
        training: Images to learn from.
        validation: Images to choose the best epoch by.
        settings: How to train.
        processes: Those that share the work.
        out: Directory to write to, and to resume from if it holds this very training.

    Raises:
        CheckpointError: the directory holds another training.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Batches,
        validation: Batches | None,
        settings: TrainingSettings,
        processes: OneProcess,
        *,
        out: str | Path | None,
    ) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        self.config = adapter_of(model).config
        self.epochs = self.config.epochs
        self.device = next(model.parameters()).device
        self.out = None if out is None else Path(out)
        self.optimiser: torch.optim.Optimizer = create_optimizer_v2(
            model, opt="adamw", lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.parameters = list(tuned_parameters(model).values())
        self.num_classes = tuned_classes(model)
        weights = None
        if settings.loss == "weighted_cross_entropy":
            weights = balancing_weights(training.labels(), self.num_classes).to(self.device, torch.float32)
        self.loss = Loss(settings.loss, settings.label_smoothing, weights)
        several = settings.loss == "binary_cross_entropy"
        self.mix = None if several else mixing_of(settings.augment, self.num_classes, settings.label_smoothing)
        self.balanced = training.labels() if settings.sampling == "balanced" else None
        self.history: list[dict[str, float]] = []
        self.best = self._copy()  # should the very first epoch fail, the model is as it was
        self.identity = None if self.out is None else self._identity(training, validation)
        if self.out is not None:
            self._resume(self.out / TRAINING)
        self.optimiser = processes.wrap_optimiser(self.optimiser)
        self.steps_per_epoch = len(batches_of(torch.arange(len(training)), settings.batch_size))
        self.step = len(self.history) * self.steps_per_epoch
        total = self.epochs * self.steps_per_epoch
        # timm counts the warm-up to the steps of the cosine, so that the last step is at 2% of the highest rate.
        warmup = max(1, round(WARMUP_SHARE * total))
        self.schedule = CosineLRScheduler(
            self.optimiser, t_initial=total, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
        )

    def is_stale(self, patience: int | None) -> bool:
        """Whether so many epochs have gone by since the best one."""
        best = max((r["epoch"] for r in self.history if r.get("best")), default=0)
        return patience is not None and len(self.history) - best >= patience

    def epoch(
        self,
        training: Reader,
        validation: Reader | None,
        forward: Forward,
        autocast: Autocast,
        advance: Callable[[], object],
    ) -> dict[str, float]:
        """Train once over all images, measure, and save; gives the epoch's record.

        Raises:
            TrainingError: a step's loss is not a number; the model has its best weights so far.
        """
        start, number, first = time.perf_counter(), len(self.history) + 1, self.step + 1
        self.model.train()
        # Each epoch has its own seed, so that a resumed run draws what an uninterrupted one would have drawn.
        torch.manual_seed(self.settings.seed * 100_003 + number - 1)
        order = drawn_order(self.balanced, len(training), self.num_classes)
        batches = batches_of(order, self.settings.batch_size)
        shares = [self.processes.share(batch) for batch in batches]
        # A process without an image of the last batch takes its first one, and counts it as nothing.
        mine = [share if len(share) else batch[:1] for batch, share in zip(batches, shares, strict=True)]
        losses, outputs, labels = [], [], []
        for batch, share, (images, theirs) in zip(batches, shares, training.read(mine, number), strict=True):
            check_range(theirs, self.num_classes, "training")
            loss, logits = self._step(images, theirs, forward, autocast, len(batch), len(share))
            losses.append(loss)
            outputs.append(decided(logits, theirs)[: len(share)])
            labels.append(theirs[: len(share)])
            advance()
        values = self.processes.sum(torch.stack(losses)).cpu().double() / self.processes.count
        self._check_losses(values, first, number)
        if validation is None:
            positions = batches_of(torch.arange(len(order)), self.settings.batch_size)
            places = [self.processes.share(position) for position in positions]
            metrics = metrics_of(*gathered(self.processes, len(order), places, outputs, labels))
        else:
            self.model.eval()
            metrics = measure(validation, forward, autocast, self.processes, 2 * self.settings.batch_size)
        sizes = torch.tensor([len(batch) for batch in batches])
        record = {"epoch": number, "loss": float((values * sizes).sum()) / len(order)}
        record |= {name: value for name, value in dataclasses.asdict(metrics).items() if value is not None}
        record |= {"learning_rate": self.optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
        earlier = max((r[self.settings.monitor] for r in self.history), default=-1.0)
        if validation is None or self.settings.keep == "last" or record[self.settings.monitor] > earlier:
            self.best = self._copy()
            record["best"] = 1.0
        self.history.append(record)
        self._save()
        return record

    def finish(self) -> tuple[int, Metrics]:
        """Give the model its best weights; says of which epoch they are, and how good."""
        load_tuned(self.model, self.best, "the best epoch")
        self.model.eval()
        best = [r for r in self.history if r.get("best")][-1]
        measured = {field.name: best[field.name] for field in dataclasses.fields(Metrics) if field.name in best}
        return int(best["epoch"]), Metrics(**measured)

    def _step(
        self, images: Tensor, labels: Tensor, forward: Forward, autocast: Autocast, batch_size: int, share: int
    ) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; gives the batch's loss `()` and the logits `(B, C)`, where they were computed.

        Nothing here waits for an accelerator.

        Args:
            images: This process's images of the batch.
            labels: Their labels.
            forward: The model.
            autocast: Gives the context to compute in.
            batch_size: Images of the batch over all processes.
            share: How many of them are this process's.
        """
        self.step += 1
        self.schedule.step_update(self.step)
        images = images.to(self.device, non_blocking=True)
        targets = labels.to(self.device, non_blocking=True)
        if self.mix is not None:
            images, targets = self.mix(images, targets, (self.settings.seed, self.step))
        with autocast():
            logits = forward(images)
            losses = self.loss(logits, targets)
        # Gradients are averaged over the processes, so that each has to count for as many.
        loss = losses.sum() * (self.processes.count / batch_size if share else 0.0)
        self.optimiser.zero_grad()
        self.processes.backward(loss)
        self.processes.step(self.optimiser, self.parameters, GRADIENT_CLIP)
        return loss.detach(), logits.detach()

    def _check_losses(self, losses: Tensor, first: int, epoch: int) -> None:
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        if wrong:
            load_tuned(self.model, self.best, "the best epoch")
            raise TrainingError(
                f"the loss became {losses[wrong[0]].item()} at step {first + wrong[0]} (epoch {epoch}); "
                "the best weights so far are kept, lower the learning rate"
            )

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
            "scaler": self.processes.scaler.state_dict(),
            "history": self.history,
        }
        write_atomically(self.out / TRAINING, lambda path: torch.save(state, path))
        lines = "".join(json.dumps(record) + "\n" for record in self.history)
        write_atomically(self.out / METRICS, lambda path: path.write_text(lines))

    def _identity(self, training: Batches, validation: Batches | None) -> str | None:
        """What only this training has: its settings, backbone and images; None where the images cannot be told."""
        images = {"images": training.fingerprint()}
        if validation is not None:
            images["validation"] = validation.fingerprint()
        if None in images.values():
            return None
        identity = self.config.to_dict() | dataclasses.asdict(self.settings) | {"validation": None} | images
        return json.dumps(identity | {"backbone": backbone_fingerprint(self.model)}, sort_keys=True)

    def _resume(self, path: Path) -> None:
        if not path.exists():
            if (path.parent / METRICS).exists():
                raise CheckpointError(
                    f"{path.parent} holds {METRICS} of something else than a training to go on with, and it would be "
                    "lost; give another directory, or remove it"
                )
            return
        if self.identity is None:
            raise CheckpointError(
                f"cannot resume from {path}: the images change with every reading, so that nothing tells whether they "
                "are those of that training; draw from the global generators of torch, NumPy or random in the dataset, "
                "or remove the file"
            )
        try:
            # Onto the CPU: the optimiser counts its steps there, and would wait for an accelerator in each of them.
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except Exception as error:  # a damaged file fails in many ways, all with the same remedy
            raise CheckpointError(f"cannot resume from {path} ({error}); remove it") from error
        if identity != self.identity:
            raise CheckpointError(
                f"{path} is of a training with other images, backbone or settings; remove it or give another directory"
            )
        load_tuned(self.model, state["tuned"], str(path))
        self.optimiser.load_state_dict(state["optimiser"])
        if state.get("scaler"):
            self.processes.scaler.load_state_dict(state["scaler"])
        self.history, self.best = state["history"], state["best"]


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """Image numbers `(N,)` batch by batch; a last image that would be alone goes with those before it.

    A single image has no statistics for batch norms to learn from.
    """
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
