"""Photographs to measure reading with: JPEG files of the usual size, drawn at random, so that nobody's are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from task2vec import Task

SIZE = (500, 375)
CLASSES = 10


def photographs(folder: Path, count: int, size: tuple[int, int] = SIZE) -> Task:
    """A task of so many JPEG files of smooth noise, as hard to decode as a photograph; written where it is missing."""
    for number in range(count):
        path = folder / str(number % CLASSES) / f"{number}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + generator.integers(-12, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return Task.from_folder(folder)
