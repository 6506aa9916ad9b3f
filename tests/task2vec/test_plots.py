import numpy as np
from matplotlib.figure import Figure

from task2vec import embed, plot_distances, plot_map
from task2vec.plots import classical_scaling, name_points
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


def test_names_avoid_each_other_where_there_is_room():
    generator = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(5), np.arange(8)), -1).reshape(-1, 2) + generator.uniform(
        -0.4, 0.4, (40, 2)
    )
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*places.T)
    axes.margins(0.12)
    name_points(axes, places, [f"a task called {i}" for i in range(40)], fontsize=10)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    overlaps = sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    simple = [axes.transData.transform(p) + 5 for p in places]
    widths = [(box.width, box.height) for box in boxes]
    naive = sum(
        abs(simple[i][0] - simple[j][0]) < widths[j][0] and abs(simple[i][1] - simple[j][1]) < widths[j][1]
        for i in range(40)
        for j in range(i)
    )
    assert overlaps == 0
    assert naive > 0
