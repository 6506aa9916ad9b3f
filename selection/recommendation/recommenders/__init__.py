"""What to tune on a new task: recommenders, a file each, behind one contract."""

from selection.recommendation.recommenders import (  # noqa: F401  each enters itself into the register
    average,
    best_fixed,
    boosted_trees,
    factorisation,
    gaussian_process,
    model2vec_choice,
    nearest_vote,
    random_choice,
)
from selection.recommendation.recommenders.gaussian_process import GaussianProcess
from selection.recommendation.recommenders.registry import RECOMMENDERS, Recommender, register_recommender

__all__ = ["RECOMMENDERS", "GaussianProcess", "Recommender", "register_recommender"]
