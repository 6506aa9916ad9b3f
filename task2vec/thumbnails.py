"""Small pictures of a few of a task's images, for people who look at the task later.

They are kept only where somebody asks for them, because whoever gets them sees what the images show. Files with them
may come from strangers, so that a picture is taken only if it is what `thumbnails_of` makes: one WebP picture of
limited size and nothing beside it, no metadata and no bytes before or after.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from task2vec.errors import EmbeddingError
from task2vec.images import UNREADABLE
from task2vec.tasks import Task
from task2vec.tasks.splitting import spread_evenly, strata

COUNT = 16  # pictures of a task
SIDE = 96  # pixels of a picture, at most, in both directions
QUALITY = 75  # of WebP, where 100 is the best
LARGEST = 2**15  # bytes of a picture; noise, which compresses least, takes 8 thousand
LONGEST = 100  # characters of a label
_HEADER = 20  # bytes before a picture's pixels: RIFF, size, WEBP, VP8, size


class Thumbnail(NamedTuple):
    """A small picture of an image: what it is labelled, and a WebP file."""

    label: str
    webp: bytes


def thumbnails_of(task: Task, count: int = COUNT, *, seed: int = 0) -> tuple[Thumbnail, ...]:
    """Pictures of some images of a task, of as many classes as there is room for, in the order of the images.

    Args:
        task: Readable images.
        count: How many, at most.
        seed: Fixes which.
    """
    parts = [part for part in strata(task.labels, task.num_classes) if len(part)]
    if len(parts) > count:
        generator = np.random.default_rng(seed)
        kept = sorted(generator.choice(len(parts), count, replace=False).tolist())
        chosen = np.sort([generator.choice(parts[i]) for i in kept])
    else:
        chosen = spread_evenly(parts, count, seed)
    return tuple(Thumbnail(_label_of(task, int(i)), _shrunk(task.images(int(i)))) for i in chosen)


def check_thumbnails(thumbnails: tuple[Thumbnail, ...]) -> None:
    """Refuse what `thumbnails_of` does not make.

    Raises:
        EmbeddingError: there are too many, or one is no small WebP picture or has something beside it.
    """
    if len(thumbnails) > COUNT:
        raise EmbeddingError(f"there are {len(thumbnails)} thumbnails; a task has {COUNT} at most")
    for number, (label, content) in enumerate(thumbnails):
        problem = f"has a label of {len(label)} characters" if len(label) > LONGEST else _problem(content)
        if problem:
            raise EmbeddingError(f"thumbnail {number} {problem}; embed the task again, or leave its thumbnails out")


def _problem(content: bytes) -> str:
    """What is wrong with a picture; empty if nothing."""
    if len(content) > LARGEST:
        return f"has {len(content):,} bytes, more than {LARGEST:,}"
    size, pixels = (int.from_bytes(content[at : at + 4], "little") for at in (4, 16))
    kinds = content[:4], content[8:16]
    padded = pixels + pixels % 2
    if kinds != (b"RIFF", b"WEBPVP8 ") or (size + 8, padded + _HEADER) != (len(content), len(content)):
        return "is not a plain WebP picture alone"
    try:
        with Image.open(BytesIO(content), formats=["WEBP"]) as image:
            if max(image.size) > SIDE:
                return f"has {image.width} x {image.height} pixels, more than {SIDE} x {SIDE}"
            image.load()
    except UNREADABLE as error:
        return f"cannot be decoded ({error})"
    return ""


def _shrunk(image: Image.Image) -> bytes:
    # Pixels alone: a picture made from them has no place, time or colour profile that came with the file.
    small = Image.fromarray(np.asarray(image.convert("RGB")))
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = BytesIO()
    small.save(written, "WEBP", quality=QUALITY)
    return written.getvalue()


def _label_of(task: Task, number: int) -> str:
    row = task.labels[number]
    present = np.flatnonzero(row) if task.multi_label else [int(row)]
    label = ", ".join(task.class_names[int(c)] for c in present) or "none"
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
