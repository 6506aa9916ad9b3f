from selection.pages.write import (
    atlas as atlas,
    report as report,
)
from selection.errors import (
    RecommendationError as RecommendationError,
    SelectionError as SelectionError,
    StoreError as StoreError,
)
from selection.evidence.backbone import (
    load_backbone as load_backbone,
)
from selection.evidence.embedding import (
    embed_all as embed_all,
)
from selection.evidence.grid import (
    Grid as Grid,
)
from selection.evidence.library import (
    load_library as load_library,
)
from selection.evidence.published import (
    published_gains as published_gains,
    published_recipes as published_recipes,
    published_results as published_results,
)
from selection.evidence.runner import (
    run_grid as run_grid,
)
from selection.jobs import (
    Cluster as Cluster,
)
from selection.recommendation.default_backbone import (
    BackboneChoice as BackboneChoice,
    default_backbone as default_backbone,
)
from selection.recommendation.facts import (
    facts_of as facts_of,
)
from selection.recommendation.fisher_by_block import (
    FisherByBlock as FisherByBlock,
)
from selection.recommendation.model2vec import (
    Model2Vec as Model2Vec,
)
from selection.recommendation.recommend import (
    DEFAULT_RECOMMENDER as DEFAULT_RECOMMENDER,
    recommend as recommend,
)
from selection.recommendation.recommenders import (
    RECOMMENDERS as RECOMMENDERS,
)
from selection.recommendation.result import (
    Candidate as Candidate,
    Evidence as Evidence,
    Recommendation as Recommendation,
)
from selection.results.description import (
    Description as Description,
    Measured as Measured,
)
from selection.results.hub import (
    from_pretrained as from_pretrained,
    push_to_hub as push_to_hub,
)
from selection.results.label_validation import (
    LabelValidation as LabelValidation,
)
from selection.results.predictions import (
    Predictions as Predictions,
)
from selection.results.result import (
    Result as Result,
    load_result as load_result,
)
from selection.results.validation import (
    Validation as Validation,
)
from selection.store import (
    BackboneFacts as BackboneFacts,
    ImportReport as ImportReport,
    Neighbour as Neighbour,
    StoredTask as StoredTask,
    TaskFilter as TaskFilter,
    TaskStore as TaskStore,
    Trial as Trial,
    export_store as export_store,
    import_archive as import_archive,
    merge_stores as merge_stores,
)
from selection.tuning.auto import (
    AutoTuned as AutoTuned,
    auto_tune as auto_tune,
)
from selection.tuning.estimator import (
    AdapterClassifier as AdapterClassifier,
)
from selection.tuning.one import (
    Tuned as Tuned,
    tune as tune,
)
from selection.tuning.optuna_prior import (
    config_of as config_of,
    enqueue as enqueue,
    parameters_of as parameters_of,
)
