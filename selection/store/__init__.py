"""Where tasks, their embeddings, trials and tuned adapters are kept."""

from selection.store.archive import ImportReport, export_store, import_archive, merge_stores
from selection.store.facts import BackboneFacts
from selection.store.filter import TaskFilter
from selection.store.store import Neighbour, StoredTask, TaskStore
from selection.store.trial import Trial

__all__ = [
    "BackboneFacts",
    "ImportReport",
    "Neighbour",
    "StoredTask",
    "TaskFilter",
    "TaskStore",
    "Trial",
    "export_store",
    "import_archive",
    "merge_stores",
]
