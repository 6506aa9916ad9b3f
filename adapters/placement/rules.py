"""Rules of placement: from what is known of each place to the parameters that it should get, relative to the others.

s: place (a site, or a block), m_s: its mass, the sum of the scores of all weights in it (their Fisher, say), n_s: the
number of these weights, c_s: the trainable parameters of an adapter of size 1 there, d_s: its depth.

A rule gives w_s of at least 0, and the budget is shared in proportion: a place with w_s = 0 gets nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from adapters.errors import ConfigError
from task2vec_base import Registry

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Places:
    """What is known of S places.

    Attributes:
        depth: `(S,)`, from 0 at the input to 1 at the output, in blocks.
        cost: `(S,)`, trainable parameters of an adapter of size 1.
        weights: `(S,)`, the backbone's own weights there.
        mass: `(S,)`, summed scores, at least 0; None where no scores are given.
        reference: `(T, S)`, the same of T other tasks; None where there are none.
        generator: For rules that draw.
    """

    depth: Array
    cost: Array
    weights: Array
    mass: Array | None
    reference: Array | None
    generator: np.random.Generator


Rule = Callable[[Places], Array]

RULES: Registry[Rule] = Registry("rule of placement", "task2vec.rules")


def register_rule(name: str) -> Callable[[Rule], Rule]:
    """Enter a rule under `name`.

    Raises:
        ValueError: the name is taken.
    """
    return RULES.register(name)


@register_rule("uniform")
def uniform(places: Places) -> Array:
    """w = c: the same size everywhere."""
    return places.cost


@register_rule("random")
def random(places: Places) -> Array:
    """w = c at a random half of the places, 0 elsewhere."""
    count = len(places.cost)
    chosen = places.generator.permutation(count)[: (count + 1) // 2]
    return places.cost * np.isin(np.arange(count), chosen)


@register_rule("early")
def early(places: Places) -> Array:
    """w = c in the half of the blocks nearer to the input, 0 elsewhere."""
    return places.cost * (places.depth < 0.5)


@register_rule("late")
def late(places: Places) -> Array:
    """w = c in the half of the blocks nearer to the output, 0 elsewhere."""
    return places.cost * (places.depth >= 0.5)


@register_rule("mass")
def mass(places: Places) -> Array:
    """w = m: parameters where the Fisher is."""
    return _mass(places, "mass")


@register_rule("mass_per_parameter")
def mass_per_parameter(places: Places) -> Array:
    """w = c m / n: sizes where the Fisher of a single weight is large, however many weights there are."""
    return places.cost * _mass(places, "mass_per_parameter") / places.weights


@register_rule("root_mass")
def root_mass(places: Places) -> Array:
    """w = sqrt(m): as `mass`, less sharply."""
    return np.sqrt(_mass(places, "root_mass"))


@register_rule("relative_mass")
def relative_mass(places: Places) -> Array:
    """w = c exp(log p - mean_t log p_t), p = m / sum m: sizes where the share of the Fisher is larger than usual.

    The Fisher falls from the first block to the last for every task, since the architecture makes it so. What tells
    tasks apart is the difference from the mean of the log shares over other tasks t, as in the distance log_cosine.
    """
    own = _mass(places, "relative_mass")
    return places.cost * np.exp(_log_shares(own) - _usual_log_shares(places, "relative_mass"))


@register_rule("usual_mass")
def usual_mass(places: Places) -> Array:
    """w = exp(mean_t log p_t), p = m / sum m: parameters where the Fisher of other tasks t is.

    The shares hardly differ between tasks, so that those of other tasks may do as well as one's own.
    """
    return np.asarray(np.exp(_usual_log_shares(places, "usual_mass")))


def _log_shares(masses: Array) -> Array:
    """Logarithms of shares along the last axis; a place without mass counts as if it had a millionth of the mean."""
    floor = 1e-6 * masses.mean(axis=-1, keepdims=True)
    return np.asarray(np.log(np.maximum(masses, floor) / masses.sum(axis=-1, keepdims=True)))


def _usual_log_shares(places: Places, rule: str) -> Array:
    """mean_t log p_t of the reference's tasks."""
    if places.reference is None:
        raise ConfigError(f"the rule {rule} compares with other tasks; give their scores as reference=")
    return np.asarray(_log_shares(places.reference).mean(axis=0))


def _mass(places: Places, rule: str) -> Array:
    if places.mass is None:
        raise ConfigError(f"the rule {rule} needs scores; give task2vec.sensitivity(task, backbone).mass")
    return places.mass
