"""Which adapter to tune on a new task, from what worked on the tasks nearest to it.

store = selection.load_library()
recommendation = selection.recommend(embedding, store, backbone="task2vec_vit_patch4_32")
result = selection.auto_tune(task, "task2vec_vit_patch4_32", store)
"""

from selection.atlas.write import atlas, report
from selection.errors import RecommendationError, SelectionError, StoreError
from selection.evidence.backbone import load_backbone
from selection.evidence.grid import Grid
from selection.evidence.library import load_library
from selection.evidence.published import published_gains, published_recipes, published_results
from selection.evidence.runner import run_grid
from selection.recommendation.facts import facts_of
from selection.recommendation.model2vec import Model2Vec
from selection.recommendation.recommend import DEFAULT_RECOMMENDER, recommend
from selection.recommendation.recommenders import RECOMMENDERS
from selection.recommendation.result import Candidate, Evidence, Recommendation
from selection.results.description import Description, Measured
from selection.results.predictions import Predictions
from selection.results.result import Result, load_result
from selection.results.validation import Validation
from selection.store import (
    BackboneFacts,
    ImportReport,
    Neighbour,
    StoredTask,
    TaskFilter,
    TaskStore,
    Trial,
    export_store,
    import_archive,
    merge_stores,
)
from selection.tuning.auto import AutoTuned, auto_tune
from selection.tuning.one import Tuned, tune
from selection.tuning.optuna_prior import config_of, enqueue, parameters_of

__all__ = [
    "DEFAULT_RECOMMENDER",
    "RECOMMENDERS",
    "AutoTuned",
    "Description",
    "Measured",
    "Predictions",
    "Result",
    "Validation",
    "load_result",
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
    "TaskFilter",
    "TaskStore",
    "Trial",
    "Tuned",
    "atlas",
    "auto_tune",
    "config_of",
    "enqueue",
    "export_store",
    "facts_of",
    "import_archive",
    "load_backbone",
    "load_library",
    "merge_stores",
    "parameters_of",
    "published_gains",
    "published_recipes",
    "published_results",
    "recommend",
    "report",
    "run_grid",
    "tune",
]
