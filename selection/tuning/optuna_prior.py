"""A recommendation as the beginning of an Optuna study: its best configurations are tried first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapters import AdapterConfig
from selection.errors import SelectionError
from selection.recommendation.result import Recommendation

if TYPE_CHECKING:
    import optuna

FIRST = 10  # configurations that a study begins with, if nothing else is said


def enqueue(study: optuna.Study, recommendation: Recommendation, count: int = FIRST) -> list[dict[str, Any]]:
    """Have a study try the recommended configuration first, then the next best by the recommendation's ranking.

    A trial's parameters are the settings of `adapters.AdapterConfig` by their names, as `config_of` reads them back.
    Settings of several numbers or names, such as `blocks`, are texts with commas. Settings that the objective does not
    suggest are ignored by Optuna.

    Args:
        study: Any `optuna.Study`.
        recommendation: What `selection.recommend` gave.
        count: How many configurations, at least 1.

    Returns:
        The parameters of the enqueued trials, in order.

    Raises:
        SelectionError: `count` is below 1.
    """
    if count < 1:
        raise SelectionError(f"count={count} gives the study nothing to begin with; give at least 1")
    others = [c.config for c in recommendation.ranking if c.config != recommendation.config]
    queued = [parameters_of(config) for config in [recommendation.config, *others][:count]]
    for parameters in queued:
        study.enqueue_trial(parameters, skip_if_exists=True)
    return queued


def parameters_of(config: AdapterConfig) -> dict[str, Any]:
    """A configuration as Optuna keeps it: numbers, texts and truth values."""
    return {name: _kept(value) for name, value in config.to_dict().items()}


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return ",".join(f"{site}:{size}" for site, size in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else value


def config_of(parameters: dict[str, Any]) -> AdapterConfig:
    """The configuration that a trial's parameters stand for.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and name != "method"}
    plain = AdapterConfig.from_dict({name: value for name, value in parameters.items() if name not in texts})
    read = AdapterConfig.from_texts(plain.method, texts).to_dict()
    return AdapterConfig.from_dict(parameters | {name: read[name] for name in texts})
