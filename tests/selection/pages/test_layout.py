"""Positions on the map, and the numbers that say how far to believe them."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from selection import SelectionError
from selection.pages.layout import MAPS, place


def between_of(points):
    return lambda rows, columns: cdist(points[rows], points[columns])


@pytest.mark.parametrize("landmarks", [100, 30], ids=["all at once", "against landmarks"])
def test_points_of_a_plane_keep_their_distances(landmarks):
    points = np.random.default_rng(0).normal(size=(90, 2))
    found = place(between_of(points), 90, landmarks=landmarks)
    np.testing.assert_allclose(cdist(found.points, found.points), cdist(points, points), atol=0.02)
    assert found.stress < 0.01
    assert found.trustworthiness > 0.99
    assert found.measured_on == min(90, landmarks)


def test_faithfulness_is_worse_where_a_plane_has_no_room():
    points = np.random.default_rng(0).normal(size=(80, 30))
    found = place(between_of(points), 80)
    on_map, true = cdist(found.points, found.points), cdist(points, points)
    assert found.stress == pytest.approx(np.sqrt(((on_map - true) ** 2).sum() / (true**2).sum()))
    assert found.stress > 0.1
    assert found.trustworthiness < 0.9


def test_landmarks_place_others_as_well_as_all_at_once_does():
    points = np.random.default_rng(1).normal(size=(300, 2)) @ np.random.default_rng(2).normal(size=(2, 10))
    points += 0.3 * np.random.default_rng(3).normal(size=points.shape)
    true = cdist(points, points)
    whole, some = (place(between_of(points), 300, landmarks=n).points for n in (300, 60))
    rank = [spearmanr(cdist(p, p).ravel(), true.ravel()).statistic for p in (whole, some)]
    assert rank[1] > rank[0] - 0.02


@pytest.mark.parametrize("landmarks", [1000, 120], ids=["all at once", "against landmarks"])
def test_tsne_keeps_neighbours_that_a_plane_cannot_hold_at_their_distances(landmarks):
    """Forty groups in many dimensions: neighbours are those of the own group."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 6)
    points = generator.normal(size=(40, 30))[group] + 0.5 * generator.normal(size=(240, 30))
    found = {by: place(between_of(points), 240, by, landmarks=landmarks) for by in MAPS}
    own = {}
    for by, layout in found.items():
        apart = cdist(layout.points, layout.points) + np.where(np.eye(240), np.inf, 0)
        own[by] = (group[apart.argsort(1)[:, :5]] == group[:, None]).mean()
    assert own["tsne"] > own["mds"] + 0.1
    assert found["tsne"].trustworthiness > found["mds"].trustworthiness
    assert found["mds"].stress < found["tsne"].stress < 1


def test_an_unknown_map_is_refused():
    with pytest.raises(SelectionError, match="there is no map 'globe'; choose from mds, tsne"):
        place(between_of(np.eye(5)), 5, "globe")


@pytest.mark.parametrize("by", ["mds", "tsne"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_tasks_are_placed_without_a_claim(n, by):
    points = np.arange(n * 2.0).reshape(n, 2)
    found = place(between_of(points), n, by)
    np.testing.assert_allclose(cdist(found.points, found.points), cdist(points, points), atol=1e-3)
    assert found.stress is None
    assert found.trustworthiness is None


def test_tasks_that_are_all_the_same_lie_in_one_place():
    for by in MAPS:
        found = place(lambda rows, columns: np.zeros((len(rows), len(columns))), 6, by)
        assert np.isfinite(found.points).all()
        assert np.ptp(found.points) < 1e-6
