"""Where tasks, their embeddings, trials and tuned adapters are kept."""

from selection.store.store import Neighbour, StoredTask, TaskStore

__all__ = ["Neighbour", "StoredTask", "TaskStore"]
