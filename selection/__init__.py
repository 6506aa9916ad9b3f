"""Which adapter to tune on a new task, from what worked on the tasks nearest to it.

store = selection.load_library()
recommendation = selection.recommend(embedding, store, backbone="task2vec_vit_patch4_32")
result = selection.auto_tune(task, "task2vec_vit_patch4_32", store)
"""

from selection.errors import RecommendationError, SelectionError, StoreError
from selection.facts import BackboneFacts, facts_of
from selection.grid import Grid
from selection.library import load_library
from selection.model2vec import Model2Vec
from selection.optuna_prior import config_of, enqueue, parameters_of
from selection.published import published_gains, published_recipes, published_results
from selection.recommendation import DEFAULT_RECOMMENDER, Candidate, Evidence, Recommendation, recommend
from selection.recommenders import RECOMMENDERS
from selection.running import run_grid
from selection.store import (
    ImportReport,
    Neighbour,
    StoredTask,
    TaskStore,
    export_store,
    import_archive,
    merge_stores,
)
from selection.trials import Trial
from selection.tuning import AutoTuned, Tuned, auto_tune, tune

__all__ = [
    "DEFAULT_RECOMMENDER",
    "RECOMMENDERS",
    "AutoTuned",
    "BackboneFacts",
    "Candidate",
    "Evidence",
    "Grid",
    "ImportReport",
    "Model2Vec",
    "Neighbour",
    "Recommendation",
    "RecommendationError",
    "SelectionError",
    "StoreError",
    "StoredTask",
    "TaskStore",
    "Trial",
    "Tuned",
    "auto_tune",
    "config_of",
    "enqueue",
    "export_store",
    "facts_of",
    "import_archive",
    "load_library",
    "merge_stores",
    "parameters_of",
    "published_gains",
    "published_recipes",
    "published_results",
    "recommend",
    "run_grid",
    "tune",
]
