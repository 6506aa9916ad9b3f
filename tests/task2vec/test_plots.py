import numpy as np

from task2vec import embed, plot_distances, plot_map
from task2vec.plots import classical_scaling
from tests.conftest import random_task
from tests.task2vec.test_embedding import small_probe


def test_a_plot_of_distances_names_every_task_once(tmp_path):
    embeddings = [embed(random_task(seed=s), small_probe()) for s in range(4)]
    figure = plot_distances(embeddings, "cosine", names=list("abcd"))
    assert sorted(label.get_text() for label in figure.axes[0].get_xticklabels()) == list("abcd")
    figure.savefig(tmp_path / "distances.png")
    assert (tmp_path / "distances.png").stat().st_size > 5000


def test_a_map_marks_the_highlighted_task(tmp_path):
    embeddings = [embed(random_task(seed=s), small_probe()) for s in range(4)]
    figure = plot_map(embeddings, "cosine", names=list("abcd"), highlight=["b"])
    bold = [t.get_text() for t in figure.axes[0].texts if t.get_weight() == "bold"]
    assert bold == ["b"]


def test_classical_scaling_recovers_points_in_the_plane_from_their_distances():
    points = np.random.default_rng(0).standard_normal((8, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    found = classical_scaling(distances)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), distances, atol=1e-9)
