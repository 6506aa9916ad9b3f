"""How good recommendations are, measured by leaving out each source in turn."""

from selection.evaluation.protocol import (
    TRIES,
    Outcome,
    Target,
    leave_one_source_out,
    outcome_of_another_seed,
    targets_of,
)
from selection.evaluation.rows import rows_of
from selection.evaluation.summary import covered, mean_of, of

__all__ = [
    "TRIES",
    "Outcome",
    "Target",
    "covered",
    "leave_one_source_out",
    "mean_of",
    "of",
    "outcome_of_another_seed",
    "rows_of",
    "targets_of",
]
