"""A recommendation in plain words: what the linear probe reaches, what tuning is expected to add, on what evidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from selection.recommendation.acquisition import CHANCE

if TYPE_CHECKING:
    from selection.recommendation.result import Candidate, Evidence, Recommendation

NAMED = 3  # stored tasks that the text names
HIDDEN = 0.05  # of accuracy, by which other features must exceed the final ones, beside chance, to be worth a word


def explain(recommendation: Recommendation) -> str:
    """Why this configuration, in a paragraph."""
    sentences = [
        _what(recommendation),
        *_expected(recommendation),
        *_where(recommendation),
        *_fisher(recommendation),
        *_placed(recommendation),
        *_instead(recommendation),
        _evidence(recommendation),
    ]
    if recommendation.warm_start is not None:
        sentences.append(
            f"Start from the adapter in {recommendation.warm_start}, which was tuned on a task close to this one."
        )
    if recommendation.note:
        sentences.append(f"Note: {recommendation.note}.")
    return " ".join(sentences)


def _what(recommendation: Recommendation) -> str:
    chosen = recommendation.candidate
    where = "here" if recommendation.timed_here else "on the machine that made the trials"
    return f"Tune {chosen.config.label} ({chosen.parameters:,} parameters, about {chosen.seconds:.0f} s {where})."


def _expected(recommendation: Recommendation) -> list[str]:
    """What the linear probe reaches and what tuning adds; accuracies only where their spread was measured."""
    said = [_level(recommendation)]
    if recommendation.is_calibrated:
        chosen = recommendation.candidate
        low, high = chosen.interval
        gain = 100 * (chosen.accuracy - recommendation.level)
        adds = f"add {_points(gain)}" if gain >= 0.5 else "add less than a point"
        if gain <= -0.5:
            adds = f"lose {_points(-gain)}"
        said.append(
            f"Tuning is expected to {adds}, to {chosen.accuracy:.0%}, and with a chance of 80% to end between "
            f"{low:.0%} and {high:.0%}."
        )
    return said


def _level(recommendation: Recommendation) -> str:
    """What a linear classifier reaches, and on whose features."""
    level, facts = recommendation.level, recommendation.facts
    if recommendation.multi_label:
        return f"A linear classifier on the probe's features of your images gets {level:.0%} of their labels right."
    if facts is None:
        return f"A linear classifier on the probe's features of your images reaches {level:.0%}."
    own = f"A linear probe of your images reaches {facts.linear_probe:.0%}"
    if recommendation.starts_from_facts:
        return f"{own}."
    return (
        f"{own} on the backbone's features, but the stored tasks were not looked at through it: expectations start "
        f"from the {level:.0%} on the probe's."
    )


def _points(number: float, digits: str = ".0f") -> str:
    text = f"{number:{digits}}"
    return f"{text} point" if text == "1" else f"{text} points"


def _where(recommendation: Recommendation) -> list[str]:
    """Which of the backbone's features tell the classes apart, and so what there is to move."""
    facts = recommendation.facts
    if facts is None:
        return []
    thirds = [f"after its {which} third" for which in ("first", "middle", "last")]
    averaged = zip(facts.by_depth, thirds[:2], strict=False)  # after the last third they are nearly the final ones
    places = [f"{where}, part by part of the image," for where in (*thirds, "at all depths together")]
    readings = [*averaged, *zip(facts.in_place, places, strict=False)]
    best, where = max(readings)
    by_chance = 2 * math.sqrt(best * (1 - best) / facts.num_images)
    if best - facts.linear_probe < max(HIDDEN, by_chance):
        return ["No other features of the backbone tell your classes apart much better than its final ones."]
    return [
        f"The backbone's features {where} tell {best:.0%} of your images apart: its final ones hide some of what your "
        "labels ask."
    ]


def _fisher(recommendation: Recommendation) -> list[str]:
    """Which blocks the task pulls at."""
    return [] if recommendation.fisher is None else [recommendation.fisher.explain()]


def _placed(recommendation: Recommendation) -> list[str]:
    """That the task itself says where the parameters go."""
    if recommendation.config.placement is None:
        return []
    return [
        "Which layers get how many of its parameters is measured on your images when tuning starts, by where the "
        "backbone's Fisher is large; the result's card shows it."
    ]


def _instead(recommendation: Recommendation) -> list[str]:
    """What else there was to choose."""
    others = [candidate for candidate in recommendation.ranking if candidate.config != recommendation.config]
    if recommendation.within is not None:
        return _cheapest(
            recommendation, recommendation.ranking[0], f"within {_points(100 * recommendation.within, 'g')} of the best"
        )
    if not others:
        return []
    text = f"Next best of {len(recommendation.ranking)} candidates is {others[0].config.label}"
    if recommendation.is_calibrated:
        text += f", {100 * abs(recommendation.candidate.accuracy - others[0].accuracy):.1f} points away"
    return [text + "."]


def _cheapest(recommendation: Recommendation, best: Candidate, points: str) -> list[str]:
    """How likely the cheapest is to be good enough, and what is expected best where that is another one."""
    is_best = best.config == recommendation.config
    if recommendation.chance is None:
        return [] if is_best else [f"{best.config.label} comes first in the order, and costs more."]
    if recommendation.chance < CHANCE:
        return [
            f"No candidate is as likely as not {points}; this one is likeliest to be, at {recommendation.chance:.0%}."
        ]
    instead = "" if is_best else f"; {best.config.label} ({best.seconds:.0f} s) is expected best"
    return [f"It is the cheapest that is as likely as not {points} ({recommendation.chance:.0%}){instead}."]


def _evidence(recommendation: Recommendation) -> str:
    text = f"This rests on the trials of {recommendation.num_tasks} stored tasks"
    near = [_named(evidence) for evidence in recommendation.evidence[:NAMED]]
    if near:
        text += f"; the nearest of those that agree are {'; '.join(near)}."
    else:
        text += "; on none of the nearest did it gain as much or as little."
    return text + _other_size(recommendation)


def _other_size(recommendation: Recommendation) -> str:
    """That the stored trials are of images of another size, if they are."""
    here = None if recommendation.facts is None else recommendation.facts.image_size
    if here is None or recommendation.image_size is None or here == recommendation.image_size:
        return ""
    there, own = (f"{size[1]} x {size[2]} pixels" for size in (recommendation.image_size, here))
    return f" Their images were read at {there}, yours are at {own}."


def _named(evidence: Evidence) -> str:
    gain = 100 * (evidence.best_score - evidence.level)
    return (
        f"{evidence.task} (distance {evidence.distance:.2f}, best there {evidence.best.label} with "
        f"{evidence.best_score:.0%}, {gain:+.0f} points on the linear probe)"
    )
