"""Optuna's search within a budget, on stored learning curves: the peer that budgets are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from selection.evaluation.budget import OutOfTimeError, Replay, Search

STEPS = 20  # that a training's epochs are reported as, so that trainings of different lengths can be compared
REPEATS = 4  # suggestions for each configuration, after which nothing new is expected


def is_installed() -> bool:
    """Whether Optuna can be imported."""
    return find_spec("optuna") is not None


def tpe_with_hyperband(order: Sequence[int] = (), seed: int = 0) -> Search:
    """Optuna's TPE sampler with its Hyperband pruner, which suggests a method and then its settings.

    Args:
        order: Configurations that are enqueued first, such as the best by a recommendation.
        seed: Of the sampler, and of the pruner's brackets.
    """

    def search(replay: Replay) -> int | None:
        import optuna

        configs = [trial.config for trial in replay.target.trials]
        by_method: dict[str, list[int]] = defaultdict(list)
        for number, config in enumerate(configs):
            by_method[config.method].append(number)

        def parameters(number: int) -> dict[str, Any]:
            method = configs[number].method
            return {"method": method, f"settings of {method}": configs[number].label}

        def objective(trial: optuna.Trial) -> float:
            method = trial.suggest_categorical("method", sorted(by_method))
            labels = {configs[number].label: number for number in by_method[method]}
            number = labels[trial.suggest_categorical(f"settings of {method}", sorted(labels))]
            length, reported = replay.length(number), 0
            for epoch in range(1, length + 1):
                try:
                    seen = replay.train(number, epoch)[epoch - 1]
                except OutOfTimeError:
                    trial.study.stop()
                    raise optuna.TrialPruned from None
                step = max(1, round(STEPS * epoch / length))
                if step > reported:
                    reported = step
                    trial.report(seen, step)
                    if epoch < length and trial.should_prune():
                        raise optuna.TrialPruned
            return seen

        with _quiet(optuna):
            study = optuna.create_study(
                study_name=f"seed {seed}",  # Hyperband draws a trial's bracket from it
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=optuna.pruners.HyperbandPruner(min_resource=2, max_resource=STEPS, reduction_factor=3),
            )
            for number in order:
                study.enqueue_trial(parameters(number))
            study.optimize(objective, n_trials=REPEATS * len(configs))
        return replay.answer()

    return search


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Inside the context, Optuna does not report every trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
