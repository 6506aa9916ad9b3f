"""Where a task wants a backbone to move: the share of its Fisher in each block, beside what is usual.

    p_b = sum_(l in b) M_l / sum_l M_l

with the Fisher's mass M_l of each layer (`BackboneFacts.fisher`). In any network most of it lies where the architecture
puts it, whatever the task, so that a share says something of the task only against those of other tasks: it is unusual
where log p_b lies more than `APART` of their standard deviations from their mean.

Indices: b block, l layer.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from selection.store import BackboneFacts

HALF = 0.5
APART = 1.5
FEWEST = 8  # other tasks that tell what is usual
SMALLEST = 1e-9  # share whose logarithm is taken

BLOCK = re.compile(r"(.*\.\d+)\.")  # everything up to the last number that is not the layer itself


@dataclasses.dataclass(frozen=True)
class FisherByBlock:
    """What a backbone's Fisher on a task says about where it would have to move.

    Attributes:
        blocks: Names of the blocks, from input to output; layers outside all blocks, such as the embedding of patches,
            come under their first name.
        shares: p_b for each of them; they sum to 1.
        usual: For each of them exp of the mean of log p_b on other tasks; None if nothing is known of those.
        spread: Standard deviations of these logarithms; None if nothing is known of them.
    """

    blocks: tuple[str, ...]
    shares: tuple[float, ...]
    usual: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    @property
    def most(self) -> tuple[str, ...]:
        """The fewest blocks that hold at least half of the Fisher, from input to output."""
        order = np.argsort(self.shares)[::-1]
        enough = int(np.searchsorted(np.cumsum(np.array(self.shares)[order]), HALF)) + 1
        return tuple(self.blocks[b] for b in sorted(order[:enough]))

    @property
    def unusual(self) -> dict[str, float]:
        """By what factor a share differs from the usual one, by the names of the blocks where it is unusual."""
        if self.usual is None or self.spread is None:
            return {}
        apart = np.log(np.maximum(self.shares, SMALLEST)) - np.log(self.usual)
        found = np.flatnonzero(np.abs(apart) > APART * np.array(self.spread))
        return {self.blocks[b]: float(np.exp(apart[b])) for b in found}

    def explain(self) -> str:
        """The same in words."""
        most = self.most
        held = sum(share for block, share in zip(self.blocks, self.shares, strict=True) if block in most)
        said = f"Your labels pull most at {_listed(most)}, where {held:.0%} of the backbone's Fisher lies"
        if self.usual is None:
            return f"{said}."
        more, less = ([b for b, factor in self.unusual.items() if (factor > 1) is wanted] for wanted in (True, False))
        told = [f"{how} at {_listed(names)}" for how, names in (("more", more), ("less", less)) if names]
        if not told:
            return f"{said}, and nowhere much more or less than other tasks do."
        return f"{said}; beside other tasks {' and '.join(told)}."


def fisher_by_block(facts: BackboneFacts, others: Sequence[BackboneFacts] = ()) -> FisherByBlock | None:
    """The same from the facts of a task, and from those of other tasks; None if its Fisher was not measured.

    Args:
        facts: Of the target.
        others: Of other tasks. Those whose Fisher compares tell what is usual, if they are at least `FEWEST`.
    """
    if not _is_measured(facts):
        return None
    shares = shares_by_block(facts.fisher)
    known = [shares_by_block(other.fisher) for other in others if _is_measured(other) and facts.compares_with(other)]
    blocks, own = tuple(shares), tuple(shares.values())
    if len(known) < FEWEST:
        return FisherByBlock(blocks, own)
    logarithms = np.log(np.maximum([[other[block] for block in blocks] for other in known], SMALLEST))
    usual, spread = np.exp(logarithms.mean(axis=0)), logarithms.std(axis=0, ddof=1)
    return FisherByBlock(blocks, own, tuple(usual.tolist()), tuple(spread.tolist()))


def shares_by_block(fisher: Mapping[str, float]) -> dict[str, float]:
    """p_b by the names of blocks, in the order of the layers."""
    shares: dict[str, float] = defaultdict(float)
    total = sum(fisher.values())
    within = {layer: found[1] if (found := BLOCK.match(layer)) else layer.split(".")[0] for layer in fisher}
    blocks = set(within.values())
    stages = {block for block in blocks if any(other.startswith(f"{block}.") for other in blocks)}
    for layer, mass in fisher.items():
        block = within[layer]
        if block in stages:  # it lies beside the blocks of a stage, and is called by its own name in it
            block = ".".join(layer.split(".")[: block.count(".") + 2])
        shares[block] += mass / total
    return dict(shares)


def _is_measured(facts: BackboneFacts) -> bool:
    return sum(facts.fisher.values()) > 0


def _listed(blocks: Sequence[str]) -> str:
    """Names of blocks, those that follow each other as a range: `blocks.0 to 3, blocks.7`."""
    runs: list[list[str]] = []
    for name in blocks:
        stem, _, number = name.rpartition(".")
        if number.isdigit() and runs and runs[-1][-1] == f"{stem}.{int(number) - 1}":
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1].rpartition('.')[2]}" for run in runs)
