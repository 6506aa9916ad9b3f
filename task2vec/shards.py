"""A large task embedded shard by shard, each anywhere, with the same result as in one piece.

    plan = Plan.of(task, "montecarlo")
    shards = split(plan, images=2000)
    found = [features_of(plan, probe, numbers) for numbers in shards]
    joined = join(plan, found)
    shares = [share_of(plan, probe, joined.classifier, *shard) for shard in joined.shards]
    embedding = add_up(plan, probe, joined, shares)

The classifier needs the features of all images, which are small. The Fisher is a mean over the images: each shard
gives its share, and the shares add up. What is drawn at random is drawn for all images by every shard, which takes its
own. So only rounding tells the result from that of `embed`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from task2vec.classifier import Classifier
from task2vec.embedding import Layer, TaskEmbedding
from task2vec.errors import Task2VecError
from task2vec.fisher import MEANS, Estimate, Shard
from task2vec.plan import Plan, layers_of
from task2vec.probe import Probe
from task2vec.progress import silent
from task2vec.tasks import Task

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ShardFeatures:
    """What a shard's images are to the probe.

    Attributes:
        numbers: int64 `(n,)`, the shard's images among all of the task.
        features: float32 `(readable, d)`, of those that can be decoded.
        unreadable: A message for each of the others, by its number in the task.
    """

    numbers: Numbers
    features: npt.NDArray[np.float32]
    unreadable: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Joined:
    """All shards together.

    Attributes:
        task: The readable images.
        classifier: The head on their features.
        shards: For each shard that has readable images, those images' numbers in the plan's task, and what they are in
            `task`.
    """

    task: Task
    classifier: Classifier
    shards: tuple[tuple[Numbers, Shard], ...]


@dataclasses.dataclass(frozen=True)
class Share:
    """A shard's share of the Fisher, float64 `(D,)`, and of which layers it is."""

    fisher: npt.NDArray[np.float64]
    layers: tuple[Layer, ...]
    unmeasured: tuple[str, ...]


def split(plan: Plan, images: int) -> list[Numbers]:
    """The numbers of the images of each shard, which has about so many.

    Raises:
        Task2VecError: the plan's estimator is no mean over the images.
    """
    if plan.method not in MEANS:
        raise Task2VecError(
            f"{plan.method} is no single mean over the images and cannot be measured in shards; choose from "
            f"{', '.join(sorted(MEANS))}"
        )
    count = max(1, round(len(plan.task) / images))
    return np.array_split(np.arange(len(plan.task)), count)


def features_of(plan: Plan, probe: Probe, numbers: Numbers) -> ShardFeatures:
    """Features of a shard's readable images."""
    shard, bad = plan.task.select(numbers).decode(probe.transform, workers=plan.compute.workers)
    good = np.setdiff1d(np.arange(len(numbers)), np.fromiter(bad, np.int64))
    unreadable = {int(numbers[place]): message for place, message in bad.items()}
    if not len(good):
        return ShardFeatures(numbers, np.empty((0, 0), np.float32), unreadable)
    inputs = plan.inputs(shard.select(good), plan.placed(probe), silent)
    return ShardFeatures(numbers, inputs.features, unreadable)


def join(plan: Plan, found: list[ShardFeatures]) -> Joined:
    """Fit the classifier on the features of all shards, given in their order.

    Raises:
        UnreadableImageError: fewer than 90% of the images can be decoded.
    """
    unreadable = {number: message for shard in found for number, message in shard.unreadable.items()}
    task = plan.task.without(unreadable)
    classifier = plan.fit(np.concatenate([shard.features for shard in found if len(shard.features)]), task)
    shards, start = [], 0
    for shard in found:
        readable = np.setdiff1d(shard.numbers, np.fromiter(shard.unreadable, np.int64))
        if len(readable):
            shards.append((readable, Shard(np.arange(start, start + len(readable)), task.labels)))
        start += len(readable)
    return Joined(task, classifier, tuple(shards))


def share_of(plan: Plan, probe: Probe, classifier: Classifier, numbers: Numbers, shard: Shard) -> Share:
    """A shard's share of the Fisher.

    Args:
        plan: Of the whole task.
        probe: The network.
        classifier: The head on the features of all shards.
        numbers: The shard's readable images in the plan's task.
        shard: What they are among all readable images.
    """
    inputs = plan.inputs(plan.task.select(numbers), plan.placed(probe), silent)
    fisher = plan.estimate(inputs, classifier, silent, shard).fisher
    return Share(fisher, layers_of(inputs), inputs.unmeasured)


def add_up(plan: Plan, probe: Probe, joined: Joined, shares: list[Share]) -> TaskEmbedding:
    """The embedding of all images.

    Raises:
        Task2VecError: a share is missing, or they are of different layers.
    """
    if len(shares) != len(joined.shards) or len({share.layers for share in shares}) != 1:
        raise Task2VecError(
            f"the {len(shares)} shares of {plan.task.name!r} are not those of its shards; measure again"
        )
    estimate = Estimate(np.sum([share.fisher for share in shares], axis=0))
    first = shares[0]
    return plan.embedding(joined.task, probe, first.layers, first.unmeasured, joined.classifier, estimate)
