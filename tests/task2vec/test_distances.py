import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine as scipy_cosine

import task2vec.distances.cosine  # noqa: F401
from task2vec import (
    DISTANCES,
    DistanceError,
    EmbeddingError,
    Layer,
    distance,
    distance_matrix,
    embed,
    load_probe,
    mean_log_embedding,
)
from tests.conftest import random_task

cosine_module = sys.modules["task2vec.distances.cosine"]

vectors = arrays(np.float64, (3, 7), elements=st.floats(1e-3, 1e3))


def positive(count, dimension=50, seed=0):
    return np.exp(2 * np.random.default_rng(seed).standard_normal((count, dimension)))


OFFICIAL_NAMES = {name: name for name in DISTANCES} | {"jensen_shannon": "jsd"}
OURS_ALONE = {"asymmetric", "log_cosine"}


@pytest.mark.parametrize("name", sorted(set(DISTANCES) - OURS_ALONE))
def test_every_distance_equals_the_public_reference_implementation(golden, name):
    numbers = np.load(golden / "official_distances.npz")
    found = distance_matrix(numbers["hessian"], name, trivial=numbers["scale"])
    np.testing.assert_allclose(found, numbers[f"distance_{OFFICIAL_NAMES[name]}"], atol=1e-10, rtol=1e-14)


def test_cosine_equals_scipy_on_each_pair():
    a, b = positive(4), positive(3, seed=1)
    expected = [[scipy_cosine(x / (x + y), y / (x + y)) for y in b] for x in a]
    np.testing.assert_allclose(distance_matrix(a, "cosine", b), expected, atol=1e-7)


def test_asymmetric_is_the_limit_of_ever_smaller_trivial_tasks():
    a, b = positive(4), positive(4, seed=1)
    trivial = np.full((1, 50), 1e-4) * a.min()
    expected = distance_matrix(a, "cosine", b) - 0.15 * distance_matrix(a, "cosine", trivial)
    np.testing.assert_allclose(distance_matrix(a, "asymmetric", b), expected, atol=2e-3)


def test_asymmetric_prefers_the_more_complex_of_two_equally_near_sources():
    flat, target = np.ones(50), np.tile([1.0, 2.0], 25)
    spread = np.tile([2.0, 8.0], 25)  # as far from the target as the flat one, but not flat
    symmetric = [distance(source, target, "cosine") for source in (flat, spread)]
    directed = [distance(source, target, "asymmetric") for source in (flat, spread)]
    assert directed[0] == pytest.approx(symmetric[0])
    assert directed[1] < symmetric[1]
    assert distance(spread, target, "asymmetric", alpha=0) == pytest.approx(symmetric[1])


def test_log_cosine_equals_scipy_on_logs_minus_the_reference():
    a, b = positive(4), positive(3, seed=1)
    reference = mean_log_embedding(np.concatenate([a, b]))
    np.testing.assert_allclose(reference, np.log(np.concatenate([a, b])).mean(axis=0))
    expected = [[scipy_cosine(np.log(x) - reference, np.log(y) - reference) for y in b] for x in a]
    np.testing.assert_allclose(distance_matrix(a, "log_cosine", b, reference=reference), expected, atol=1e-12)


def test_log_cosine_without_a_reference_says_how_to_make_one():
    with pytest.raises(DistanceError, match="mean_log_embedding"):
        distance_matrix(positive(3), "log_cosine")


def test_a_reference_of_other_layers_is_refused():
    with pytest.raises(DistanceError, match=r"of shape \(49,\) is of other layers than vectors of length 50"):
        distance_matrix(positive(3), "log_cosine", reference=np.zeros(49))
    probe = load_probe()
    part = dataclasses.replace(embed(random_task(), probe), layers=(Layer("part", 3),), fisher=np.ones(3, np.float32))
    assert distance(part, part, "cosine") == 0
    with pytest.raises(DistanceError, match="or choose another distance, such as cosine"):  # the shipped one is of all
        distance(part, part, "log_cosine")


SYMMETRIC = sorted(set(DISTANCES) - {"asymmetric", "asymmetric_kl"})
# What scaling both tasks alike leaves alone; log_cosine compares with a reference, which does not scale along.
SCALE_FREE = sorted(set(DISTANCES) - {"log_cosine"})


@given(a=vectors, b=vectors)
@settings(deadline=None)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_distances_are_symmetric_and_not_negative(name, a, b):
    forward = distance_matrix(a, name, b, reference=np.zeros(7))
    backward = distance_matrix(b, name, a, reference=np.zeros(7))
    np.testing.assert_allclose(forward, backward.T, atol=1e-4 if name == "entropy" else 1e-9)
    assert (forward >= -1e-9).all()


@given(a=vectors)
@settings(deadline=None)
@pytest.mark.parametrize("name", sorted(set(DISTANCES) - {"asymmetric"}))
def test_the_distance_of_a_task_to_itself_is_zero(name, a):
    a[:, 0] *= 2  # no flat vector, which has no correlation
    a[:, 1] /= 2
    own = np.diag(distance_matrix(a, name, reference=np.full(7, -20.0)))
    np.testing.assert_allclose(own, 0, atol=1e-9)


@given(a=vectors, b=vectors, factor=st.floats(0.1, 10))
@settings(deadline=None)
@pytest.mark.parametrize("name", SCALE_FREE)
def test_scaling_both_tasks_alike_changes_nothing(name, a, b, factor):
    a, b = np.insert(a, 0, 1e4, axis=1), np.insert(b, 0, 1e4, axis=1)  # no flat vectors, which have no correlation
    expected = distance_matrix(a, name, b)
    np.testing.assert_allclose(distance_matrix(a * factor, name, b * factor), expected, atol=1e-3, rtol=1e-6)


def test_the_variational_trivial_task_is_the_prior():
    sources, prior = positive(3), np.full(50, 0.5)
    directed = distance_matrix(sources, "asymmetric", trivial=prior)
    expected = distance_matrix(sources, "cosine") - 0.15 * distance_matrix(sources, "cosine", prior[None])
    np.testing.assert_allclose(directed, expected, atol=1e-12)


def test_blocks_of_any_size_give_the_same_matrix(monkeypatch):
    a, b = positive(9), positive(5, seed=1)
    whole = distance_matrix(a, "cosine", b)
    monkeypatch.setattr("task2vec.distances.pairs.BLOCK", 1)
    np.testing.assert_array_equal(distance_matrix(a, "cosine", b), whole)


def test_filters_that_are_dead_for_both_tasks_count_for_nothing():
    a, b = positive(2), positive(2, seed=1)
    dead = np.zeros((2, 5))
    expected = distance_matrix(a, "cosine", b)
    np.testing.assert_allclose(distance_matrix(np.hstack([a, dead]), "cosine", np.hstack([b, dead])), expected)
    reference = np.zeros(55)
    for name in DISTANCES:
        found = distance_matrix(np.hstack([a, dead]), name, np.hstack([b, dead]), reference=reference)
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones(5), EmbeddingError, "expected embeddings or an array"),
        (-np.ones((2, 5)), EmbeddingError, "at least 0"),
        (np.full((2, 5), np.nan), EmbeddingError, "finite"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        distance_matrix(values, "cosine")


def test_an_unknown_distance_is_answered_with_those_there_are():
    with pytest.raises(
        DistanceError, match=r"no distance 'euclid'; choose from asymmetric, asymmetric_kl, correlation"
    ):
        distance_matrix(positive(2), "euclid")
    with pytest.raises(EmbeddingError, match="length 50 and 7"):
        distance_matrix(positive(2), "cosine", positive(2, 7))


@pytest.mark.parametrize("same", [True, False])
def test_compiled_pairs_equal_array_expressions(monkeypatch, same):
    generator = np.random.default_rng(0)
    a, b = (np.exp(3 * generator.standard_normal((count, 37))) for count in (21, 10))
    a[3, :5] = b[2, :5] = a[4] = 0  # dead filters, and a task without any Fisher
    arguments = (a, "cosine") if same else (a, "cosine", b)
    expected = distance_matrix(*arguments)
    monkeypatch.setattr(cosine_module, "COMPILE_ABOVE", 0)
    np.testing.assert_allclose(distance_matrix(*arguments), expected, atol=1e-12)


LEAVES_THREADS = """
import numpy as np, sys, torch
from task2vec import distance_matrix
torch.set_num_threads(1)
assert torch.get_num_threads() == 1
sys.modules["task2vec.distances.cosine"].COMPILE_ABOVE = 0
distance_matrix(np.ones((9, 5)), "cosine")
compiled = "task2vec.distances.compiled" in sys.modules
import numba
print(torch.get_num_threads(), numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS, compiled)
"""


def test_the_first_compiled_pairs_of_a_process_leave_torch_and_numba_their_threads():
    output = subprocess.run([sys.executable, "-c", LEAVES_THREADS], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["1", "True", "True"]


def test_entropy_of_a_vector_with_itself_is_nought_however_small_it_is():
    """The stabiliser in its denominator would otherwise show where the entries are as small as it is."""
    rows = positive(4) * 1e-8
    assert distance_matrix(rows, "entropy").diagonal().tolist() == [0.0] * 4
    assert distance_matrix(rows[:1], "entropy", rows.copy())[0, 0] == 0.0
    assert distance_matrix(rows, "entropy")[0, 1] > 0


def test_embeddings_with_and_without_a_prior_have_no_distance():
    task = random_task(20)
    one = embed(task, load_probe(), "montecarlo")
    other = dataclasses.replace(one, trivial=np.full_like(one.fisher, 0.5))
    with pytest.raises(DistanceError, match="some embeddings are by an estimator with a prior and some are not"):
        distance_matrix([one, other], "asymmetric")


def test_embeddings_that_were_made_in_other_ways_are_compared_with_a_warning(recwarn):
    task, probe = random_task(), load_probe()
    usual, same = embed(task, probe), embed(task, probe, seed=1)
    distance(usual, same)
    assert not recwarn
    with pytest.warns(
        UserWarning, match=r"'noise' was made by montecarlo with l2=1 and 'noise' by empirical with l2=1"
    ):
        distance(usual, embed(task, probe, "empirical"))
    with pytest.warns(UserWarning, match=r"with l2=1 and 'noise' by montecarlo with l2=0\.01"):
        distance_matrix([usual, embed(task, probe, l2=0.01)])
