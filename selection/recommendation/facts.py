"""What one pass of a target's images through the backbone says, before anything is tuned.

The accuracy of a linear probe is the level that tuning starts from, and a first trial for nothing. Probes after each
third of the blocks say how far from the output the features lie that the task needs. Probes on features of each part of
the image show what the pooled features lose, such as positions, and tuning may recover. The backbone's own Fisher, from
a pass forwards and backwards, says how much the task pulls at it and in which layers, and filter by filter it is the
task's embedding under the very network that will be tuned.

Indices: i image, d feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import task2vec
from adapters import BackboneId
from adapters.data import Transform, transform_of
from adapters.pooling import ends_of_parts, pooled
from adapters.proof import evaluating
from adapters.sites import classifier_names, walk
from selection.errors import SelectionError
from selection.recommendation.ridge import leave_one_out_accuracy
from selection.recommendation.transferability import SCORES, Outputs
from selection.store import BackboneFacts
from task2vec import Compute, Task
from task2vec.classifier import cross_validated_accuracy
from task2vec.log_sketch import log_sketch
from task2vec.progress import reporting

Array = npt.NDArray[np.float64]

Values = TypeVar("Values", Array, Tensor)

DEPTHS = 3  # at which features are read: after each third of the blocks
CELLS = 3  # parts that each side of the image is divided into
MOST_SEEN = 10_000  # images that are looked at: more say hardly more of a linear probe
MOST_IN_PLACE = 2000  # images that are looked at in place: the regression takes the cube of their number
# Images that the Fisher is measured on, drawn evenly from the classes: as many as the library's tasks have.
MOST_MEASURED = 500
DIGITS = 3  # after the point of a sketch's numbers, which are tens
PENALTY = 0.03  # of the probes, on standardised features
BATCH_SIZE = 64


def facts_of(
    task: Task,
    backbone: nn.Module,
    *,
    transform: Transform | None = None,
    compute: Compute | None = None,
    progress: bool = False,
) -> BackboneFacts:
    """Read a task's images once through a backbone, `MOST_SEEN` of them at most, and up to `MOST_MEASURED` of them
    backwards as well.

    Args:
        task: Labelled images, one label each; those that cannot be decoded are left out.
        backbone: As it will be tuned. It stays as it is, and where it is.
        transform: Image to tensor; the backbone's own preprocessing if not given.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.
        progress: Show progress bars on standard error.

    Raises:
        SelectionError: an image has several labels.
        TaskError: all images are of one class.
        UnreadableImageError: fewer than 90% of the images can be decoded.
    """
    if task.multi_label:
        raise SelectionError(f"task {task.name!r} has several labels an image; a linear probe here takes one")
    task.learnable()
    compute, transform = compute or Compute(), transform or transform_of(backbone)
    seen = _look(_some_of(task), backbone, transform, compute, progress=progress)
    labels, num_classes = seen.task.labels, task.num_classes
    probes = [
        cross_validated_accuracy(features, labels, num_classes, l2=PENALTY)
        for features in (*seen.features.by_depth, *seen.features.final)
    ]
    outputs = Outputs(_standardised(seen.features.final[0]), np.empty((0, 0)), labels)
    cells = [_standardised(features) for features in seen.features.in_place]
    cells.append(np.concatenate(cells, axis=1))
    fisher = task2vec.sensitivity(
        seen.task,
        backbone,
        transform=transform,
        classifier=classifier_names(backbone)[0],
        compute=compute,
        max_samples=MOST_MEASURED,
        progress=progress,
    )
    return BackboneFacts(
        backbone=BackboneId.of_model(backbone),
        num_images=len(seen.task),
        num_classes=num_classes,
        linear_probe=probes[-1],
        by_depth=tuple(probes[:-1]),
        in_place=tuple(leave_one_out_accuracy(features, labels[seen.in_place], num_classes) for features in cells),
        logme=SCORES["logme"](outputs),
        h_score=SCORES["h_score"](outputs),
        fisher=fisher.mass,
        sketch=tuple(np.round(log_sketch(fisher.fisher), DIGITS).tolist()),
        image_size=seen.image_size,
    )


class _Features(NamedTuple, Generic[Values]):
    """What images look like, each part a list of float `(N, d)`.

    Attributes:
        final: At the classifier, one alone.
        by_depth: After each third of the blocks, averaged over positions.
        in_place: The same averaged over each of `CELLS` x `CELLS` parts of the image, of some images only.
    """

    final: list[Values]
    by_depth: list[Values]
    in_place: list[Values]


class _Seen(NamedTuple):
    """A task through a backbone.

    Attributes:
        task: Its images that can be decoded.
        in_place: bool `(N,)`, which of them were looked at in place.
        features: Of all of them, and in place of these.
        image_size: `(C, H, W)` as the backbone took them; None without images.
    """

    task: Task
    in_place: npt.NDArray[np.bool_]
    features: _Features[Array]
    image_size: tuple[int, int, int] | None


def _some_of(task: Task) -> Task:
    """At most `MOST_SEEN` images, drawn from all alike, so that classes are as frequent among them as in the task."""
    if len(task) <= MOST_SEEN:
        return task
    return task.select(np.sort(np.random.default_rng(0).permutation(len(task))[:MOST_SEEN]))


def _look(task: Task, backbone: nn.Module, transform: Transform, compute: Compute, *, progress: bool) -> _Seen:
    """Read a task's images once through a backbone, which stays as it is and where it is."""
    chosen = np.zeros(len(task), bool)
    chosen[np.random.default_rng(0).permutation(len(task))[:MOST_IN_PLACE]] = True
    bad: dict[int, str] = {}
    rows: list[_Features[Tensor]] = []
    image_size: tuple[int, int, int] | None = None
    parameter = next(backbone.parameters())
    home, autocast = parameter.device, compute.autocast_dtype
    backbone.to(compute.device_for(home))
    try:
        with torch.no_grad(), evaluating(backbone), _features(backbone) as read, reporting(progress) as report:
            for start, images, failures in task.batches(transform, BATCH_SIZE, workers=compute.workers):
                bad |= {start + offset: name for offset, name in failures.items()}
                if len(images):
                    image_size = images.shape[1], images.shape[2], images.shape[3]
                    kept = np.delete(chosen[start : start + len(images) + len(failures)], list(failures))
                    with torch.autocast(parameter.device.type, autocast, enabled=autocast is not None):
                        rows.append(read(images.to(parameter.device, parameter.dtype), torch.from_numpy(kept)))
                report("Looking through the backbone", start + len(images) + len(failures), len(task))
    finally:
        backbone.to(home)
    features = _Features(*(_joined([row[part] for row in rows]) for part in range(3)))
    return _Seen(task.without(bad), np.delete(chosen, list(bad)), features, image_size)


@contextmanager
def _features(backbone: nn.Module) -> Iterator[Callable[[Tensor, Tensor], _Features[Tensor]]]:
    """Inside the context, a function from images `(N, C, H, W)` and which of them are looked at in place, bool `(N,)`,
    to features.
    """
    blocks = [site for site in walk(backbone) if site.kind == "block"]
    sites = [blocks[k] for k in ends_of_parts(len(blocks), DEPTHS)]
    taken: dict[str, Tensor] = {}
    handles = [
        site.module.register_forward_hook(lambda _, args, output, name=site.name: taken.__setitem__(name, output))
        for site in sites
    ]
    head = backbone.get_submodule(classifier_names(backbone)[0])
    handles.append(head.register_forward_pre_hook(lambda _, args: taken.__setitem__("", args[0])))

    def read(images: Tensor, in_place: Tensor) -> _Features[Tensor]:
        backbone(images)
        final = taken[""].float().cpu()
        if not sites:  # a network without blocks has its final features at every depth
            return _Features([final], [final] * DEPTHS, [final[in_place]] * DEPTHS)

        def averaged(cells: int) -> list[Tensor]:
            found = [
                pooled(taken[s.name].float(), s.output_width, cells, s.tokens.grid if s.tokens else None) for s in sites
            ]
            # A block may see several rows an image, one after the other, as MobileViT's do.
            return [rows.reshape(len(images), -1, rows.shape[1]).mean(dim=1).cpu() for rows in found]

        return _Features([final], averaged(1), [rows[in_place] for rows in averaged(CELLS)])

    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _joined(rows: Sequence[Sequence[Tensor]]) -> list[Array]:
    """The features of all batches, one after the other, for each place that they are read at."""
    return [torch.cat(batches).double().numpy() for batches in zip(*rows, strict=True)]


def _standardised(features: Array) -> Array:
    spread = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
