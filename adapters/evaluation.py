"""How well a model does on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters.data import Batches, Reader, Workers, transform_of
from adapters.data.labels import check_range
from adapters.errors import TrainingError
from adapters.metrics import Metrics, metrics_of
from adapters.precision import Autocast, computing_in, explaining
from adapters.processes import OneProcess
from adapters.settings import COUNT, checked

Forward = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 128,
    autocast: torch.dtype | None = None,
    workers: Workers = "auto",
) -> Metrics:
    """How well a model does on a map-style dataset of (image, label).

    Args:
        model: Any classifier, on the device to compute on.
        dataset: Map-style dataset of (image, label), or `Batches` of one.
        batch_size: Images at once.
        autocast: Compute in this type where that is safe, such as `torch.bfloat16`.
        workers: Processes that read images; 0 to do it between the batches.

    Raises:
        TrainingError: the model takes no such images, one cannot be read, or its label is none of the model's.
        ConfigError: `batch_size` is no whole number of at least 1.
    """
    batch_size = checked("batch_size", batch_size, COUNT)
    batches = dataset if isinstance(dataset, Batches) else Batches(dataset, transform_of(model), workers=workers)
    model.eval()
    device = next(model.parameters()).device
    with explaining(model, batches, autocast), computing_in(model, autocast) as precision:
        reader = Reader(batches, workers=workers, device=device)
        return measure(reader, model, precision, OneProcess(device, autocast), batch_size)


@torch.no_grad()
def measure(reader: Reader, forward: Forward, autocast: Autocast, processes: OneProcess, batch_size: int) -> Metrics:
    """The metrics of a model in evaluation mode; each process computes its share of the images.

    Args:
        reader: The images.
        forward: The model, or the part of it that takes what the reader gives.
        autocast: Gives the context to compute a batch in.
        processes: Those that share the work.
        batch_size: Images at once.
    """
    shares = processes.share(torch.arange(len(reader))).split(batch_size)
    outputs: list[Tensor] = []
    labels: list[Tensor] = []
    # A process without an image takes the first one, and counts it as nothing.
    mine = [share if len(share) else torch.zeros(1, dtype=torch.long) for share in shares]
    for share, (images, theirs) in zip(shares, reader.read(mine), strict=True):
        with autocast():
            logits = forward(images.to(reader.device, non_blocking=True))
        check_range(theirs, logits.shape[1], "an image's")
        outputs.append(decided(logits, theirs)[: len(share)])
        labels.append(theirs[: len(share)])
    return metrics_of(*gathered(processes, len(reader), shares, outputs, labels))


def decided(logits: Tensor, labels: Tensor) -> Tensor:
    """What of logits `(B, C)` the metrics need, still where the logits lie: class numbers, -1 where a logit is NaN, or
    the logits themselves for rows of labels.
    """
    logits = logits.detach().float()
    return logits if labels.ndim == 2 else logits.argmax(dim=1).where(~logits.isnan().any(dim=1), -1)


def gathered(
    processes: OneProcess, count: int, places: Sequence[Tensor], outputs: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Outputs and labels of all processes on the CPU, in one order.

    Args:
        processes: Those that shared the work.
        count: How many images there are over all processes.
        places: The places of each of this process's batches among them.
        outputs: What `decided` gave for each.
        labels: Their labels.

    Raises:
        TrainingError: the model's outputs are NaN for some images, which are right in no class.
    """
    whole: list[Tensor] = []
    for parts in (outputs, labels):
        mine = torch.cat(list(parts)).cpu() if parts else torch.zeros(0)
        filled = torch.zeros(count, *mine.shape[1:], dtype=mine.dtype)
        if len(mine):
            filled[torch.cat(list(places))] = mine
        whole.append(processes.sum(filled).cpu())
    found, known = whole
    wrong = int((found.isnan().any(dim=1) if known.ndim == 2 else found < 0).sum())
    if wrong:
        raise TrainingError(
            f"the model's outputs are NaN for {wrong} of {count} images; look for NaN in its weights and in the images"
        )
    return found, known
