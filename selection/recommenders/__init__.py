"""What to tune on a new task: recommenders, a file each, behind one contract."""

from selection.recommenders import (  # noqa: F401  each enters itself into the register
    best_fixed,
    gaussian_process,
    model2vec_choice,
    nearest_vote,
    random_choice,
)
from selection.recommenders.gaussian_process import GaussianProcess
from selection.recommenders.registry import RECOMMENDERS, Prediction, Recommender, TaskFacts, TrialTable

__all__ = ["RECOMMENDERS", "GaussianProcess", "Prediction", "Recommender", "TaskFacts", "TrialTable"]
