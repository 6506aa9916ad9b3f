"""The runner of the evidence and the pilot's arithmetic."""

import sys
from pathlib import Path

import numpy as np
import pytest

from adapters import AdapterConfig, BackboneId
from selection import Trial

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The two commands as modules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import evidence
    import pilot

    yield evidence, pilot
    for name in ("evidence", "pilot"):
        sys.modules.pop(name, None)


def test_repeats_and_configurations_are_told_apart(scripts):
    _, pilot = scripts
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        configurations, seeds = generator.normal(0, 10, (12, 1)), generator.normal(0, 30, (1, 3))
        found.append(pilot.repeats(50 + configurations + seeds + generator.normal(0, 4, (12, 3))))
    within, between = np.sqrt(np.mean(np.square(found), axis=0))
    assert within == pytest.approx(4, rel=0.05)
    assert between == pytest.approx(10, rel=0.05)


def test_finished_trials_are_not_run_again_and_waves_come_in_order(scripts, datasets, tmp_path):
    evidence, _ = scripts
    out = tmp_path / "trials.jsonl"
    before = list(evidence.missing(datasets, 0, out))
    assert list(dict.fromkeys(job.images for job in before[: len(before) // 2])) == [500, 100]
    tried = [(job.task, job.images, config) for job in before for config in job.configs]
    assert len(tried) == len(set(tried))
    everything = {(config, images) for _, images, config in tried}
    waves = ((images, AdapterConfig.from_dict(s)) for images, wave in evidence.WAVES for s in wave)
    assert everything == {(config, images) for images, config in waves}
    first = before[0]
    done = Trial(first.configs[0], BackboneId("vit"), 0.5, 0.5, 0, 1.0, 0, first.images)
    out.write_text(done.to_line(f"{first.task}@{first.images}"))
    after = list(evidence.missing(datasets, 0, out))
    assert after[0].configs == first.configs[1:]
    assert after[1:] == before[1:]
    assert next(evidence.missing(datasets, 1, out)).configs == first.configs  # another seed is another trial


def test_the_configurations_are_different_and_known(scripts):
    evidence, _ = scripts
    configs = [AdapterConfig.from_dict(settings) for settings in (*evidence.WIDE, *evidence.OTHERS)]
    assert len(set(configs)) == 19


def test_a_trial_as_if_alone_keeps_its_scores_and_takes_the_measured_seconds(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import library

    curve = ((0.3, 2.0), (0.4, 6.0))
    trial = Trial(AdapterConfig("ssf"), BackboneId("vit"), 0.5, 0.4, 7, 8.0, 0, 100, curve=curve)
    alone = library.as_if_alone(trial, 2.0)
    assert alone.curve == ((0.3, 0.5), (0.4, 1.5))
    assert (alone.score, alone.seconds) == (0.5, 2.0)
    sys.modules.pop("library", None)
