import numpy as np
import pytest
import torch

import selection
import task2vec
from adapters import DEFAULT_BACKBONE
from selection import Model2Vec, SelectionError
from selection.recommendation.model2vec import asymmetric_distances

EXPERTS = ("cnn", "mixer", "vit")


def clustered(num_tasks, seed=0, dimension=40):
    """Tasks around three centres, each centre with its own best expert."""
    centres = 1.5 * np.random.default_rng(9).standard_normal((3, dimension))
    generator = np.random.default_rng(seed)
    labels = np.arange(num_tasks) % 3
    return np.exp(centres[labels] + generator.standard_normal((num_tasks, dimension))), [EXPERTS[i] for i in labels]


def test_its_distance_is_the_asymmetric_distance():
    sources, targets = clustered(4)[0], clustered(5, seed=1)[0]
    found = asymmetric_distances(torch.from_numpy(sources), torch.from_numpy(targets))
    np.testing.assert_allclose(found, task2vec.distance_matrix(sources, "asymmetric", targets), atol=1e-12)


def test_it_picks_the_expert_that_was_best_on_similar_tasks():
    tasks, best = clustered(30)
    model = Model2Vec.fit(tasks, best)
    held_out, expected = clustered(30, seed=1)
    assert [model.pick(task) for task in held_out] == expected
    probabilities = model.probabilities(held_out[0])
    assert sum(probabilities.values()) == pytest.approx(1)
    assert next(iter(probabilities)) == expected[0]


def test_experts_move_from_their_sources_to_where_they_win():
    tasks, best = clustered(30)
    # The sources say nothing, or the wrong thing: each expert starts at the centre of another one's tasks.
    wrong = {e: np.exp(np.log(tasks[np.array(best) == EXPERTS[i - 1]]).mean(0)) for i, e in enumerate(EXPERTS)}
    stuck = Model2Vec.fit(tasks, best, sources=wrong, penalty=1e6)
    np.testing.assert_allclose(stuck.vectors, np.stack([wrong[e] for e in EXPERTS]), rtol=1e-3)
    moved = Model2Vec.fit(tasks, best, sources=wrong, penalty=1e-3)
    held_out, expected = clustered(30, seed=1)
    right = [np.mean([m.pick(t) == e for t, e in zip(held_out, expected, strict=True)]) for m in (stuck, moved)]
    assert right[0] < 0.4
    assert right[1] > 0.9
    np.testing.assert_allclose(moved.offsets, moved.vectors - np.stack([wrong[e] for e in EXPERTS]))


def test_the_shipped_library_trains_it():
    library = selection.load_library()
    names = {task.name for task in library.tasks(selection.TaskFilter(trials_on=DEFAULT_BACKBONE))}
    tried = [e for e in library.embeddings(task2vec.load_probe().fingerprint) if e.task in names]
    best = [max(library.task(e.task).trials, key=lambda t: t.score).config.method for e in tried]
    model = Model2Vec.fit(tried, best)
    assert np.mean([model.pick(e) == b for e, b in zip(tried, best, strict=True)]) >= 0.9
    assert (model.vectors > 0).all()


@pytest.mark.parametrize(
    ("best", "message"),
    [(["vit"], "one expert for each task"), (["vit"] * 6, "give two, and both"), ([], "one expert for each task")],
)
def test_too_little_to_learn_from_is_refused(best, message):
    with pytest.raises(SelectionError, match=message):
        Model2Vec.fit(clustered(6)[0], best)
