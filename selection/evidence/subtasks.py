"""More tasks from one: some of its classes, or its classes in groups.

They are what a library of many tasks can be made of where images are few. All come from the same source as the task,
so an honest evaluation leaves them out together.
"""

from __future__ import annotations

import numpy as np

from task2vec import Task

FEWEST_TO_HALVE = 6  # classes of a task whose halves still are tasks to tell apart
FEWEST_TO_GROUP = 8  # classes of a task that become at least two groups
GROUP = 4  # classes in a group

Groups = dict[str, tuple[int, ...]]


def subtasks(task: Task) -> dict[str, Groups]:
    """Names and classes of the tasks in a task, for `Task.regrouped`: two finer ones and a coarser one.

    The finer ones have half the classes each, drawn at random with a fixed seed. The coarser one puts neighbours in the
    list of class names into one class, four or more at a time.
    """
    found: dict[str, Groups] = {}
    if task.num_classes >= FEWEST_TO_HALVE:
        order = np.random.default_rng(0).permutation(task.num_classes)
        for number, half in enumerate(np.array_split(order, 2), 1):
            found[f"{task.name}.half{number}"] = {task.class_names[c]: (int(c),) for c in sorted(half)}
    if task.num_classes >= FEWEST_TO_GROUP:
        parts = np.array_split(np.arange(task.num_classes), task.num_classes // GROUP)
        groups = {f"{task.class_names[p[0]]} to {task.class_names[p[-1]]}": tuple(map(int, p)) for p in parts}
        found[f"{task.name}.coarse"] = groups
    return found
