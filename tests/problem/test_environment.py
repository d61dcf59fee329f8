"""Decisions, reward, closed form and observations."""

import functools
import itertools
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import FEATURES, LAYERS, PROPERTY, SPACE, evaluation_of

from apq_jax.config import Config, SearchOptions
from apq_jax.hardware import Accelerator
from apq_jax.metrics import METRICS
from apq_jax.pipeline import prepare
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies.random import random
from apq_jax.system.errors import InputError
from apq_jax.types import Policy


def test_decode_by_hand() -> None:
    """Weight bits 2, 4, 6, 7 are four intervals: 3 and 5 cost what the next even one does."""
    actions = jnp.asarray(
        [
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 1.0],
            [0.49, 0.26, 0.26],
            [0.74, 0.49, 0.49],
            [0.13, 0.51, 0.51],
            [0.12, 0.76, 0.99],
        ]
    )
    policy = environment.decode(SPACE, actions)
    assert policy.level.tolist() == [0, 4, 2, 1, 3, 4]
    assert policy.weight_bits.tolist() == [2, 7, 4, 4, 6, 7]
    assert policy.input_bits.tolist() == [3, 6, 4, 4, 5, 6]


def test_of_bits_that_cost_the_same_the_most_are_a_choice() -> None:
    def choices(least: int, largest: int, **hardware: Any) -> tuple[tuple[int, ...], ...]:
        names = "min_weight_bits", "min_input_bits", "max_weight_bits", "max_input_bits"
        search = SearchOptions(**dict(zip(names, (least, least, largest, largest), strict=True)))
        space = prepare.build_space(Config(search=search), Accelerator(**hardware))
        return space.weight_bits, space.input_bits

    assert choices(2, 7) == ((2, 4, 6, 7), (2, 3, 4, 5, 6, 7))
    assert choices(1, 8, cell_bits=3, dac_bits=4) == ((3, 6, 8), (4, 8))
    # Pairs hold a sign and 2 bits: 1, 2 and 3 bits are one pair.
    assert choices(1, 8, signed="differential")[0] == (3, 5, 7, 8)
    with pytest.raises(InputError, match=r"accelerator\.cell_bits: 4; allowed: up to .* \(3\)"):
        choices(2, 3, cell_bits=4)


@PROPERTY
@hypothesis.given(
    levels=st.integers(1, 64),
    weight=st.sets(st.integers(1, 8), min_size=1),
    inputs=st.sets(st.integers(1, 8), min_size=1),
    action=st.tuples(*[st.floats(0, 1, width=32)] * 3),
)
def test_what_is_executed_is_encoded_and_decoded_unchanged(
    levels: int, weight: set[int], inputs: set[int], action: Any
) -> None:
    space = Space(levels, tuple(sorted(weight)), tuple(sorted(inputs)))
    policy = environment.decode(space, jnp.asarray(action))
    assert 0 <= policy.level < levels
    assert int(policy.weight_bits) in weight
    assert int(policy.input_bits) in inputs
    encoded = environment.encode(space, policy)
    assert ((encoded >= 0) & (encoded <= 1)).all()
    assert environment.decode(space, encoded) == policy


def test_encoded_is_the_middle_of_what_decodes() -> None:
    """Found on a fine grid, for choices that are not evenly spaced."""
    a = (jnp.arange(2520) + 0.5) / 2520
    for column, choices in ((1, (2, 4, 6, 7)), (2, (3, 4, 5, 6))):
        actions = jnp.full((2520, 3), 0.5).at[:, column].set(a)
        bits = np.asarray(environment.decode(SPACE, actions)[column])
        for choice in choices:
            middle = np.asarray(a)[bits == choice].mean()
            like = Policy(*(jnp.asarray(field) for field in (2, choice, choice)))
            assert environment.encode(SPACE, like)[column] == pytest.approx(middle, abs=1e-3)


def test_random_policies_are_equally_likely(problem: Problem) -> None:
    policies, _, _ = random(SPACE, 4000).ask(jax.random.key(0), None, problem)
    for field, choices in zip(
        jax.tree.leaves(policies), (range(5), (2, 4, 6, 7), (3, 4, 5, 6)), strict=True
    ):
        values, counts = np.unique(np.asarray(field), return_counts=True)
        assert values.tolist() == list(choices)
        expected = field.size / len(choices)
        assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


def test_reward_by_hand(problem: Problem) -> None:
    assert (METRICS.index("slots"), METRICS.index("energy_nj")) == (0, 3)
    # 0.95 - 0.5 x 0.01 = 0.945 is above the limit of 0.94.
    met = environment.reward(problem, evaluation_of(0.01, 250, 40.0))
    np.testing.assert_allclose(met, 0.5 * math.log(4) + 0.5 * math.log(10), rtol=1e-5)
    # 0.95 - 0.5 x 0.06 = 0.92 is two points below: 2 ln(1 + 4 x 2) off.
    missed = environment.reward(problem, evaluation_of(0.06, 250, 40.0))
    np.testing.assert_allclose(met - missed, 2 * math.log(9), rtol=1e-4)


def everything(free: tuple[bool, bool, bool], base: Policy, layer: int) -> list[tuple[int, ...]]:
    choices = range(SPACE.levels), (2, 4, 6, 7), (3, 4, 5, 6)
    fixed = [int(field[layer]) for field in jax.tree.leaves(base)]
    return [
        choice
        for choice in itertools.product(*choices)
        if all(is_free or choice[i] == fixed[i] for i, is_free in enumerate(free))
    ]


@pytest.mark.parametrize(
    "free",
    [(True, True, True), (True, False, False), (False, True, True), (False, False, False)],
    ids=str,
)
@pytest.mark.parametrize("price", [0.01, 1.0, 30.0])
def test_closed_form_is_the_best_of_all(problem: Problem, free: Any, price: float) -> None:
    base = Policy(jnp.asarray([1, 0, 3]), jnp.asarray([6, 2, 7]), jnp.asarray([4, 6, 3]))
    allowed = environment.allow_free(SPACE, free, environment.encode(SPACE, base))
    policy = environment.solve_closed_form(problem, SPACE, jnp.asarray(price), allowed)
    p = jax.tree.map(np.asarray, problem)
    for layer in range(LAYERS):
        every = everything(free, base, layer)
        assert allowed[layer].sum() == len(every)

        def total(choice: tuple[int, ...], layer: int = layer) -> float:
            level, weight, inputs = choice
            error = p.error[layer, level, weight - 1] + p.input_error[layer, inputs - 1]
            return error + price * p.share[layer, level, weight - 1, inputs - 1]

        chosen = tuple(int(field[layer]) for field in jax.tree.leaves(policy))
        assert chosen in every
        assert total(chosen) == pytest.approx(min(map(total, every)), rel=1e-6)


def test_dearer_is_smaller(problem: Problem) -> None:
    allowed = environment.allow_free(SPACE, (True,) * 3, jnp.zeros((LAYERS, 3)))
    costs = [
        environment.look_up_shares(
            problem, environment.solve_closed_form(problem, SPACE, jnp.asarray(price), allowed)
        ).sum()
        for price in (0.01, 0.3, 3.0, 100.0)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 3 * costs[-1]


def test_observations_show_what_is_used_and_what_remains(problem: Problem) -> None:
    base = Policy(jnp.zeros(LAYERS, int), jnp.full(LAYERS, 7), jnp.full(LAYERS, 6))
    taken = Policy(jnp.asarray([4, 2, 1]), jnp.asarray([2, 4, 6]), jnp.asarray([3, 4, 5]))
    before, actions = environment.encode(SPACE, base), environment.encode(SPACE, taken)
    seen = environment.observe_episode(problem, SPACE, before, actions)
    assert seen.shape == (LAYERS, FEATURES + 3 + 3 + 3)
    full, cut = (np.asarray(environment.look_up_shares(problem, each)) for each in (base, taken))
    for layer in range(LAYERS):
        np.testing.assert_array_equal(seen[layer, :FEATURES], problem.features[layer])
        np.testing.assert_array_equal(seen[layer, FEATURES : FEATURES + 3], before[layer])
        last = actions[layer - 1] if layer else np.zeros(3)
        np.testing.assert_array_equal(seen[layer, FEATURES + 3 : FEATURES + 6], last)
    np.testing.assert_allclose(seen[:, -3], [cut[:n].sum() for n in range(3)], atol=1e-6)
    np.testing.assert_allclose(seen[:, -2], [full[n:].sum() for n in range(3)], atol=1e-6)
    np.testing.assert_allclose(seen[:, -1], math.log(11) / math.log(1001), rtol=1e-4)  # a point


def test_later_actions_are_not_seen(problem: Problem) -> None:
    base = jnp.full((LAYERS, 3), 0.5)
    observed = environment.observe_episode(problem, SPACE, base, jnp.full((LAYERS, 3), 0.2))
    other = jnp.full((LAYERS, 3), 0.2).at[1:].set(0.9)
    other = environment.observe_episode(problem, SPACE, base, other)
    np.testing.assert_array_equal(observed[:2], other[:2])
    assert (observed[2:] != other[2:]).any(axis=1).all()


def test_rollout_walks_the_layers(problem: Problem) -> None:
    """Base, correction and noise add up; what returns is what the policy carries out."""
    base = environment.encode(
        SPACE, Policy(jnp.asarray([0, 1, 2]), jnp.asarray([4, 6, 7]), jnp.asarray([3, 4, 5]))
    )

    def correct(observation: jax.Array) -> jax.Array:
        return jnp.zeros(3).at[1].set(jnp.where(observation[FEATURES] < 0.9, 0.01, 0.0))

    walk = functools.partial(environment.roll_out, problem, SPACE, base, correct)
    everywhere, none = jnp.ones((LAYERS, 3), bool), jnp.zeros((LAYERS, 3))
    np.testing.assert_allclose(walk(everywhere, none), base, atol=1e-6)
    noise = none.at[1:, 0].set(-0.3)
    moved = walk(everywhere.at[2].set(False), noise)
    policy = environment.decode(SPACE, moved)
    assert policy.level.tolist() == [0, 2, 2]  # 0.75 - 0.3 is nearest to 0.5
    assert policy.weight_bits.tolist() == [4, 6, 7]
