"""Distances between task embeddings, one idea each file."""

from task2vec.distances import asymmetric, cosine, entropy, jensen_shannon, kl, log_cosine, of_variances
from task2vec.distances.matrix import distance, distance_matrix
from task2vec.distances.registry import DISTANCES
from task2vec.distances.sketch import ESTIMATES, Projection, Sketch

__all__ = [
    "DISTANCES",
    "ESTIMATES",
    "Projection",
    "Sketch",
    "asymmetric",
    "cosine",
    "distance",
    "distance_matrix",
    "entropy",
    "jensen_shannon",
    "kl",
    "log_cosine",
    "of_variances",
]
