"""Labelled images on their way into a network: read through torch's `DataLoader`, a batch at a time.

Any map-style dataset of (image, label) will do. One that has methods `decoded` and `stages`, as `task2vec.Task` has,
is decoded once and read from what it keeps; augmentation comes after that. A dataset that draws crops or flips by
itself is asked again for every epoch. Whatever is drawn follows from the seed, the epoch and the image's number alone:
a training that is resumed draws what an uninterrupted one would have drawn, with any number of workers.
"""

from adapters.data.batches import Batches, preprocessing_of, transform_of
from adapters.data.examples import Batch, Transform, drawn_from
from adapters.data.reader import Reader, Workers

__all__ = ["Batch", "Batches", "Reader", "Transform", "Workers", "drawn_from", "preprocessing_of", "transform_of"]
