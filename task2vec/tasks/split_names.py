"""What people call the parts of a dataset: to learn from, to choose by, to score on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from task2vec.errors import TaskError

TRAIN, VALIDATION, TEST = "train", "val", "test"

SPELLINGS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
BESIDE = frozenset(
    {"set", "split", "data", "dataset", "seg", "folder", "files"} | {"image", "images", "img", "imgs", "photos"}
)
"""Words that may stand beside, as in `training_set`, `seg_test` and `val2017`."""


def split_of(name: str) -> str | None:
    """`train`, `val` or `test`, whatever the spelling and case; None for any other name."""
    words = re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=(set|data|images)\b)", " ", name.lower().replace("_", " ")))
    roles = [SPELLINGS[word] for word in words if word in SPELLINGS]
    known = len(roles) + sum(word in BESIDE for word in words)
    return roles[0] if len(roles) == 1 and known == len(words) else None


def chosen_split(names: Mapping[str, str], wanted: str | None, where: str) -> str:
    """The split that is asked for, in any spelling; the training split, or the only one, if none is.

    Args:
        names: What each split is called there.
        wanted: What to take.
        where: For the message.

    Raises:
        TaskError: there is no such split, or none was named and there is no training split to take.
    """
    there = ", ".join(sorted(names.values()))
    if wanted is None:
        if TRAIN in names or len(names) == 1:
            return TRAIN if TRAIN in names else next(iter(names))
        raise TaskError(f"{where} has no training split; it has {there}, name one with split=")
    role = split_of(wanted)
    if role not in names:
        raise TaskError(f"{where} has no split {wanted!r}; it has {there}")
    assert role is not None
    return role
