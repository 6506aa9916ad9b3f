"""What embeddings say about real tasks."""

import numpy as np
import pytest

from task2vec import Task, distance_matrix, embed, load_probe, mean_log_embedding

TASKS = ("att_faces", "coil20", "gtsrb", "mnist", "tin_birds")


@pytest.mark.parametrize("method", ["montecarlo", "hutchinson"])
@pytest.mark.slow
def test_the_nearest_neighbour_of_a_half_is_its_twin(datasets, method):
    probe = load_probe()
    tasks = [Task.from_folder(datasets / f"{name}.zip").subsample(240) for name in TASKS]
    halves = [half for task in tasks for half in task.split(0.5)]
    embeddings = [embed(half, probe, method, seed=seed) for seed, half in enumerate(halves)]
    distances = distance_matrix(embeddings, "log_cosine", reference=mean_log_embedding(embeddings))
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(distances.argmin(axis=0), np.arange(len(halves)) ^ 1)


def test_ten_digits_have_a_larger_norm_than_two_of_them(datasets):
    probe = load_probe()
    task = Task.from_folder(datasets / "mnist.zip").subsample(300)
    two = Task.from_dataset([task[i] for i in np.flatnonzero(task.labels < 2)])
    assert embed(task, probe).norm > 2 * embed(two, probe).norm
