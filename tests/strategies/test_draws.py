"""Uniform numbers turned into others: their range, and their distribution."""

import jax
import numpy as np
from scipy import stats

from apq_jax.strategies.draws import to_normal, to_whole

UNIFORM = jax.random.uniform(jax.random.key(0), (20_000,))


def test_whole_numbers_are_alike_often_and_never_the_count() -> None:
    values = np.asarray(to_whole(UNIFORM, 7))
    assert stats.chisquare(np.bincount(values, minlength=7)).pvalue > 0.01
    largest = np.nextafter(np.float32(1), np.float32(0))
    counts = np.asarray([1, 3, 1000, 2**22 - 1])
    np.testing.assert_array_equal(to_whole(largest, counts), counts - 1)


def test_normal_numbers_are_normal_up_to_the_limit() -> None:
    assert stats.kstest(np.asarray(to_normal(UNIFORM)), "norm").pvalue > 0.01
    cut = np.asarray(to_normal(UNIFORM, limit=2.0))
    assert stats.kstest(cut, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    np.testing.assert_allclose(to_normal(np.float32([0, 0.5]), 2.0), [-2, 0], atol=1e-5)
