"""What `task2vec`, `adapters` and `selection` share: registers, files that are whole or not there, worker processes.

`task2vec` and `adapters` stand beside each other and import neither the other, so that each is useful alone. What both
need lies below both, here.
"""

from task2vec_base.files import write_atomically
from task2vec_base.registry import Registry
from task2vec_base.workers import usual_workers

__all__ = ["Registry", "usual_workers", "write_atomically"]
