"""Where tasks, their embeddings, trials and tuned adapters are kept."""

from selection.store.archive import ImportReport, export_store, import_archive, merge_stores
from selection.store.store import Neighbour, StoredTask, TaskStore

__all__ = ["ImportReport", "Neighbour", "StoredTask", "TaskStore", "export_store", "import_archive", "merge_stores"]
