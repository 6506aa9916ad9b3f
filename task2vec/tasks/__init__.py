"""Labelled images: one file for each kind of place that they come from, and what can be done with them."""

from task2vec.tasks.splits import Splits, read_splits
from task2vec.tasks.task import Task

__all__ = ["Splits", "Task", "read_splits"]
