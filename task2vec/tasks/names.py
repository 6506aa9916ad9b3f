r"""Labels from the names of files, as in `maine_coon_12.jpg` with the pattern `(.+)_\d+`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from task2vec.errors import TaskError
from task2vec.tasks.files import FileImages, list_images
from task2vec.tasks.folder import task_name
from task2vec.tasks.labels import several_labels
from task2vec.tasks.sources import LabelledImages


def read_names(path: Path, pattern: str) -> LabelledImages:
    """The images of a folder or zip, each of the class that the pattern finds at the start of its file's name.

    Raises:
        TaskError: the pattern is no regular expression, does not say which part is the class, or fits no file.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise TaskError(f"pattern {pattern!r} is no regular expression ({error})") from error
    if compiled.groups != 1 and "label" not in compiled.groupindex:
        raise TaskError(f"pattern {pattern!r} must have one group, the class, as in '(.+)_[0-9]+', or one named label")
    group: int | str = "label" if "label" in compiled.groupindex else 1
    listing = list_images(path)
    found = {name: compiled.match(PurePosixPath(name).name) for name in listing.images}
    classes = {name: match[group] for name, match in found.items() if match is not None and match[group]}
    if not classes:
        raise TaskError(f"pattern {pattern!r} fits no file of {path}, such as {PurePosixPath(listing.images[0]).name}")
    rows, class_names = several_labels([[name] for name in classes.values()])
    return LabelledImages(
        FileImages(listing.files, tuple(classes)),
        rows.argmax(axis=1),
        class_names,
        source=path.name,
        name=task_name(path.resolve()),
        skipped=tuple(name for name in listing.images if name not in classes) + listing.skipped,
    )
