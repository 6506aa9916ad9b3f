"""Distances between task embeddings, one file each."""

from task2vec.distances import asymmetric, cosine, log_cosine
from task2vec.distances.matrix import distance, distance_matrix
from task2vec.distances.registry import DISTANCES

__all__ = ["DISTANCES", "asymmetric", "cosine", "distance", "distance_matrix", "log_cosine"]
