"""The short stand-in for the logarithms of a Fisher."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from task2vec.distances.logarithms import logs
from task2vec.log_sketch import SKETCH_SIZE, _hash, log_sketch


def test_the_hash_is_the_published_one():
    """The first numbers of SplitMix64 from the seed 0, as its authors' code gives them."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert _hash(np.arange(3, dtype=np.uint64)).tolist() == expected


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_it_is_a_product_with_a_matrix_that_has_one_sign_for_each_filter(filters, size, seed):
    generator = np.random.default_rng(seed)
    matrix = np.stack([log_sketch_of_logs(row, size) for row in np.eye(filters)])
    assert (np.abs(matrix).sum(axis=1) == 1).all()
    fisher = np.exp(generator.normal(size=filters)) * (generator.uniform(size=filters) > 0.1)
    fisher[0] = 1.0
    np.testing.assert_allclose(log_sketch(fisher, size), logs(fisher[None])[0] @ matrix, atol=1e-9)


def log_sketch_of_logs(values, size):
    """The sketch of values as if they were logarithms."""
    return log_sketch(np.exp(values), size)


@pytest.mark.parametrize("filters", [5_000, 20_928])
def test_products_are_kept_to_the_error_that_its_size_allows(filters):
    generator = np.random.default_rng(0)
    u, v = generator.normal(size=(2, 200, filters))
    v += 0.3 * u
    sketched = [np.stack([log_sketch(np.exp(row)) for row in rows]) for rows in (u, v)]
    lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    errors = ((sketched[0] * sketched[1]).sum(axis=1) - (u * v).sum(axis=1)) / lengths
    assert abs(errors.mean()) < 3 * errors.std() / len(errors) ** 0.5
    np.testing.assert_allclose(errors.std(), SKETCH_SIZE**-0.5, rtol=0.25)
