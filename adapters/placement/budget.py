"""Sizes that fill a budget of parameters and never exceed it.

s: place, k: size. An adapter of size k at place s costs cost(s, k) parameters.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = (1, 2)


def fill(weights: Sequence[float], cost: Callable[[int, int], float], budget: int) -> list[int]:
    """Sizes whose costs are in proportion to the weights as nearly as whole sizes allow, within the budget.

    One step at a time goes to the place that is furthest behind its share: the one with the largest weight for each
    parameter that it would then have, the step itself counting half (the rule of Sainte-Lague and Webster). A step is
    one size, or two where these are cheaper for each (a RepAdapter of even width is made of two groups). A place whose
    next size does not fit or does not exist gets no more, so that in the end no place can be one size larger. Places
    that are equally far behind take turns that are spread over all of them.

    Args:
        weights: `(S,)`, at least 0; a place of weight 0 gets nothing.
        cost: Parameters of size k at place s, growing with k from `cost(s, 0) = 0`; infinite where there is no such
            size.
        budget: Parameters.

    Returns:
        A size for each place.
    """
    sizes = [0] * len(weights)
    left = float(budget)
    queue: list[tuple[float, float, int, int]] = []

    def price(place: int, step: int) -> float:
        return cost(place, sizes[place] + step) - cost(place, sizes[place])

    def enter(place: int, steps: Sequence[int]) -> None:
        step = min(steps, key=lambda step: price(place, step) / step)
        if weights[place] > 0 and math.isfinite(price(place, step)):
            behind = weights[place] / (cost(place, sizes[place]) + price(place, step) / 2)
            heapq.heappush(queue, (-behind, (place * GOLDEN) % 1, place, step))

    for place in range(len(weights)):
        enter(place, STEPS)
    while queue:
        _, _, place, step = heapq.heappop(queue)
        if price(place, step) <= left:
            left -= price(place, step)
            sizes[place] += step
            enter(place, STEPS)
        elif step > 1:
            enter(place, STEPS[:1])
    return sizes
