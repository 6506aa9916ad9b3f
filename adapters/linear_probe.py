"""Where nothing learns below the classifier, its inputs need computing only once.

10,000 of 768 numbers are 30 MB. They are kept in main memory: Head2Toe reads more than twenty times as many.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from adapters.adapter import tuned_tensors
from adapters.data import Batches, Reader, Workers
from adapters.evaluation import Forward
from adapters.methods.head2toe import ReadingClassifier
from adapters.sites import classifier_names


def features_suffice(model: nn.Module, *datasets: Batches | None) -> bool:
    """Whether only one linear classifier learns, from images that are the same in every epoch."""
    heads = classifier_names(model)
    only_head = len(heads) == 1 and all(name.startswith(f"{heads[0]}/") for name in tuned_tensors(model))
    return (
        only_head
        and isinstance(model.get_submodule(heads[0]), nn.Linear)
        and all(batches is None or batches.cacheable for batches in datasets)
    )


@torch.no_grad()
def with_features(batches: Batches, model: nn.Module, workers: Workers, batch_size: int = 128) -> Batches:
    """The classifier's inputs `(N, d)` instead of images."""
    model.eval()
    device = next(model.parameters()).device
    taken: list[Tensor] = []
    labels: list[Tensor] = []
    head = model.get_submodule(classifier_names(model)[0])
    handle = head.register_forward_pre_hook(
        lambda _, args: taken.append(head.inputs(args[0]) if isinstance(head, ReadingClassifier) else args[0])
    )
    try:
        reader = Reader(batches, workers=workers, device=device)
        for images, theirs in reader.read(torch.arange(len(batches)).split(batch_size)):
            model(images.to(device, non_blocking=True))
            taken[-1] = taken[-1].cpu()
            labels.append(theirs)
    finally:
        handle.remove()
    return Batches(TensorDataset(torch.cat(taken), torch.cat(labels)), batches.transform)


def from_features(model: nn.Module) -> Forward:
    """From the classifier's inputs to logits."""
    head = model.get_submodule(classifier_names(model)[0])
    return partial(F.linear, weight=head.weight, bias=head.bias)  # type: ignore[arg-type]
