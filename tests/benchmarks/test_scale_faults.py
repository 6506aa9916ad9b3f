"""Faults caused for real below a grid on a cluster: what was stored stays, once, and the grid completes."""

import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]'")
    if not os.environ.get("TASK2VEC_POSTGRES_DATA"):
        pytest.skip("no PostgreSQL that may be restarted; run under .ci/with-postgres")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale_faults

    monkeypatch.setattr(scale_faults, "RESULTS", tmp_path / "faults.json")  # what was measured stays as it is
    yield scale_faults
    sys.modules.pop("scale_faults")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["workers", "machines", "databases", "drivers"])
def test_no_finished_trial_is_lost_or_stored_twice_and_the_grid_completes(faults, fault):
    survived = getattr(faults, fault)(2)
    assert (survived.stored, survived.lost, survived.twice) == (survived.trials, 0, 0)
