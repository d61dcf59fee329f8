"""Pareto front and finalists, by hand and against the definition."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from apq_jax import archive

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def test_front_by_hand() -> None:
    benefit = np.asarray([1.0, 3.0, 2.0, 3.0, 0.5, 2.0])
    accuracy = np.asarray([0.9, 0.7, 0.8, 0.7, 0.85, 0.75])
    # 1 and 3 are equal: the first stands for both; 4 loses to 0 and 5 to 2.
    assert archive.pareto_front(benefit, accuracy).tolist() == [1, 2, 0]


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(points=VALUES)
def test_front_is_what_none_beats(points: list[tuple[int, int]]) -> None:
    benefit, accuracy = np.asarray(points, float).T
    front = archive.pareto_front(benefit, accuracy)
    beaten = {
        at
        for at, (b, a) in enumerate(points)
        if any(x >= b and y >= a and (x, y) != (b, a) for x, y in points)
    }
    assert {points[at] for at in front} == {
        points[at] for at in range(len(points)) if at not in beaten
    }
    assert (np.diff(benefit[front]) < 0).all()


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(points=VALUES, limit=st.integers(0, 7), count=st.integers(2, 8))
def test_finalists(points: list[tuple[int, int]], limit: int, count: int) -> None:
    benefit, accuracy = np.asarray(points, float).T
    chosen = archive.finalists(benefit, accuracy, limit, count)
    assert 1 <= len(chosen) <= count
    assert len({points[at] for at in chosen}) == len(chosen)
    assert (np.diff(benefit[chosen]) <= 0).all()
    if accuracy.max() >= limit:
        assert (accuracy[chosen] >= limit).all()
        assert benefit[chosen[0]] == benefit[accuracy >= limit].max()
        assert accuracy[chosen].max() == accuracy.max() or count < 4
    else:
        assert accuracy[chosen].max() == accuracy.max()


def test_hypervolume_by_hand() -> None:
    """Above (0, -10): corners (3, -8), (2, -4), (1, 0); one dominated, one below each reference."""
    benefit = np.asarray([1.0, 3.0, 2.0, 1.5, 9.0, -1.0])
    accuracy = np.asarray([0.0, -8.0, -4.0, -5.0, -11.0, 1.0])
    assert archive.hypervolume(benefit, accuracy, 0.0, -10.0) == 3 * 2 + 2 * 4 + 1 * 4
    assert archive.hypervolume(benefit[4:], accuracy[4:], 0.0, -10.0) == 0.0
