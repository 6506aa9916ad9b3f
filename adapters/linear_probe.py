"""Where nothing learns below the classifier, its inputs need computing only once.

10,000 of 768 numbers are 30 MB. They are kept in main memory: Head2Toe reads more than twenty times as many.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from adapters.adapter import adapter_of, tuned_tensors
from adapters.data import Batches, Reader, Workers
from adapters.evaluation import Forward
from adapters.methods.head2toe import ReadingClassifier
from adapters.proof import evaluating
from adapters.sites import classifier_names


def features_suffice(model: nn.Module, training: Batches, validation: Batches | None) -> bool:
    """Whether only one linear classifier learns, from images that are the same in every epoch, and the model's answers
    are what that classifier gives.
    """
    heads = classifier_names(model)
    only_head = len(heads) == 1 and all(name.startswith(f"{heads[0]}/") for name in tuned_tensors(model))
    steady = training.cacheable and (validation is None or validation.cacheable)
    if not (only_head and steady):
        return False
    head, shape = model.get_submodule(heads[0]), adapter_of(model).proven_with
    if shape is None or not _is_plain(head):
        return False
    return _has_the_last_word(model, head, next(model.parameters()).new_zeros(shape))


def _is_plain(head: nn.Module) -> bool:
    """Whether a module does what a linear layer does and no more, as one with parametrised weights or hooks would."""
    return type(head) in (nn.Linear, ReadingClassifier) and not head._forward_pre_hooks and not head._forward_hooks


@torch.no_grad()
def _has_the_last_word(model: nn.Module, head: nn.Module, images: Tensor) -> bool:
    """Whether a model calls a module once and answers what that gives, whatever it is."""
    given: list[Tensor] = []

    def numbers_instead(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given.append(torch.arange(1, output.numel() + 1).reshape(output.shape).to(output))
        return given[-1]

    handle = head.register_forward_hook(numbers_instead)
    try:
        with evaluating(model):
            answer = model(images)
    finally:
        handle.remove()
    return len(given) == 1 and isinstance(answer, Tensor) and torch.equal(answer.to(given[0]), given[0])


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
