"""Limits, fronts and finalists, by hand and against the definition."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from apq_jax.problem import pareto
from apq_jax.types import Policy

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def test_front_by_hand() -> None:
    benefit = np.asarray([1.0, 3.0, 2.0, 3.0, 0.5, 2.0])
    accuracy = np.asarray([0.9, 0.7, 0.8, 0.7, 0.85, 0.75])
    # 1 and 3 are equal: the first stands for both; 4 loses to 0 and 5 to 2.
    assert pareto.find_pareto_front(benefit, accuracy).tolist() == [1, 2, 0]


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(points=VALUES)
def test_front_is_what_none_beats(points: list[tuple[int, int]]) -> None:
    benefit, accuracy = np.asarray(points, float).T
    front = pareto.find_pareto_front(benefit, accuracy)
    beaten = {
        index
        for index, (b, a) in enumerate(points)
        if any(x >= b and y >= a and (x, y) != (b, a) for x, y in points)
    }
    assert {points[index] for index in front} == {
        points[index] for index in range(len(points)) if index not in beaten
    }
    assert (np.diff(benefit[front]) < 0).all()


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(points=VALUES, limit=st.integers(0, 7), count=st.integers(2, 8))
def test_finalists(points: list[tuple[int, int]], limit: int, count: int) -> None:
    benefit, accuracy = np.asarray(points, float).T
    short = np.maximum(limit - accuracy, 0)
    chosen = pareto.choose_finalists(benefit, accuracy, short, count)
    assert 1 <= len(chosen) <= count
    assert len(set(chosen.tolist())) == len(chosen)
    if accuracy.max() >= limit:
        assert (np.diff(benefit[chosen]) <= 0).all()
        assert (accuracy[chosen] >= limit).all()
        assert benefit[chosen[0]] == benefit[accuracy >= limit].max()
        assert accuracy[chosen].max() == accuracy.max() or count < 4
    else:
        assert sorted(short[chosen]) == sorted(short)[: len(chosen)]
        best = accuracy == accuracy.max()
        assert (accuracy[chosen[0]], benefit[chosen[0]]) == (accuracy.max(), benefit[best].max())


def test_finalists_by_hand() -> None:
    """Six: three steps of ln 4 / 3 = 0.46 below 2, the last open; then those of most benefit."""
    benefit = np.asarray([2.0, 1.99, 1.98, 1.6, 1.5, 1.2, 0.3, 0.2, 2.1])
    accuracy = np.asarray([96.0, 97.0, 96.5, 96.8, 97.5, 97.2, 98.0, 97.9, 90.0])
    short = np.maximum(96.0 - accuracy, 0)
    chosen = pareto.choose_finalists(benefit, accuracy, short, 6)
    # The most accurate of 2.0 to 1.54, of 1.5 and 1.2, and of the rest; then 2.0, 1.98, 1.6.
    assert chosen.tolist() == [0, 1, 2, 3, 4, 6]


def test_distinct_policies_stand_for_those_that_repeat_them() -> None:
    """Evaluations 0, 2 and 3 differ in one field each; 1 and 5 repeat 0, 4 repeats 2."""
    level = np.asarray([[0, 1], [0, 1], [0, 2], [0, 1], [0, 2], [0, 1]])
    weight_bits = np.full((6, 2), 4)
    input_bits = np.asarray([[8, 8], [8, 8], [8, 8], [8, 6], [8, 8], [8, 8]])
    policy = Policy(level, weight_bits, input_bits)
    assert pareto.find_first(policy).tolist() == [0, 0, 2, 3, 2, 0]
    assert pareto.find_distinct(policy).tolist() == [0, 2, 3]


ROWS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(rows=ROWS)
def test_non_dominated_is_what_none_beats(rows: list[tuple[int, int, int]]) -> None:
    front = pareto.find_non_dominated(np.asarray(rows, float)).tolist()
    expected = [
        index
        for index, row in enumerate(rows)
        if row not in rows[:index]
        and not any(all(x >= y for x, y in zip(o, row, strict=True)) and o != row for o in rows)
    ]
    assert front == expected


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(points=VALUES)
def test_both_fronts_agree_in_two_dimensions(points: list[tuple[int, int]]) -> None:
    values = np.asarray(points, float)
    assert sorted(pareto.find_pareto_front(*values.T)) == pareto.find_non_dominated(values).tolist()


def test_shortfall_and_misses_by_hand() -> None:
    values = {
        "accuracy_drop": [0.5, 2.5, 0.0],
        "slots": [300, 450, 301],
        "energy_nj": [1, 1, 99.0],
    }
    limits = {"accuracy_drop": 0.5, "slots": 300.0}
    # 2 points are 0.02; 450 is half too many; the energy has no limit.
    np.testing.assert_allclose(pareto.shortfall(values, limits), [0, 0.52, 1 / 300])
    assert pareto.find_misses(values, limits, 0) == ()
    assert pareto.find_misses(values, limits, 1) == (
        pareto.Miss("accuracy_drop", 2.5, 0.5),
        pareto.Miss("slots", 450, 300.0),
    )
    assert pareto.shortfall(values, {}).tolist() == [0, 0, 0]
    # 100 (0.98 - 0.97) is a bit more than 1.
    assert pareto.shortfall({"accuracy_drop": [100 * (0.98 - 0.97)]}, {"accuracy_drop": 1.0}) == 0


def test_knee_by_hand() -> None:
    """The fifth is below the reference, the last is beaten by the second."""
    benefit = np.asarray([4.0, 3.0, 1.0, 0.5, 9.0, 2.0])
    accuracy = np.asarray([-9.0, -2.0, -1.0, 0.0, -11.0, -3.0])
    # Along the axes: (1, 0), (2.5/3.5, 7/9), (0.5/3.5, 8/9), (0, 1); sums 1, 1.49, 1.03, 1.
    assert pareto.find_knee(benefit, accuracy, 0.0, -10.0) == 1
    # Were it not: (2.5/8.5, 9/11) and the sum 1.11 are still the most.
    assert pareto.find_knee(benefit, accuracy, 0.0, -12.0) == 1
    assert pareto.find_knee(benefit[:1], accuracy[:1], 0.0, -10.0) == 0
    # Nothing above the reference: the most accurate.
    assert pareto.find_knee(benefit, accuracy, 10.0, -10.0) == 3


def test_hypervolume_by_hand() -> None:
    """Above (0, -10): corners (3, -8), (2, -4), (1, 0); one dominated, one below each reference."""
    benefit = np.asarray([1.0, 3.0, 2.0, 1.5, 9.0, -1.0])
    accuracy = np.asarray([0.0, -8.0, -4.0, -5.0, -11.0, 1.0])
    assert pareto.hypervolume(benefit, accuracy, 0.0, -10.0) == 3 * 2 + 2 * 4 + 1 * 4
    assert pareto.hypervolume(benefit[4:], accuracy[4:], 0.0, -10.0) == 0.0
