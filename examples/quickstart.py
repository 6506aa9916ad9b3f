"""Embed your images, ask which adapter to tune, tune it, and get a plain timm model back.

python examples/quickstart.py path/to/images
"""

from __future__ import annotations

import sys

import selection
import task2vec


def main(folder: str) -> None:
    """Run the whole way on one image folder with classes as sub-folders."""
    task = task2vec.Task.from_folder(folder)
    embedding = task2vec.embed(task, task2vec.load_probe(), progress=True)
    store = selection.load_library()
    for neighbour in store.nearest(embedding, k=3):
        print(f"near {neighbour.name}: {neighbour.distance:.3f}")

    result = selection.auto_tune(task, store=store, out="tuned")
    print(f"tuned {result.recommendation.config.label}: {result.fit.best.accuracy:.1%} on validation images")
    if result.merged is not None:
        print(f"merged into a plain {type(result.merged).__name__}; weights in tuned/merged.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
