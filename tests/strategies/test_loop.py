"""The loop that drives strategies: budgets, keys, seeds, and going on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import (
    LAYERS,
    SPACE,
    STRATEGIES,
    Chunks,
    choices,
    evaluate,
    run_search,
    shared,
)

from apq_jax.compression.evaluator import Evaluator
from apq_jax.pipeline import stages
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem
from apq_jax.strategies import Strategy, loop
from apq_jax.strategies.random import random
from apq_jax.types import Evaluation, Policy


@pytest.fixture(scope="module")
def records(problem: Problem) -> dict[str, loop.Record]:
    """22 evaluations in chunks of 2 x 4: the last chunk is cut to 6, its last batch to 2."""
    return {name: run_search(shared(name), problem, 0, 22) for name in STRATEGIES}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_budget_is_met_and_the_records_are_true(
    problem: Problem, records: dict[str, loop.Record], name: str
) -> None:
    record = records[name]
    assert record.reward.shape == (22,)
    assert record.policy.level.shape == (22, LAYERS)
    for index in (0, 9, 21):
        policy = jax.tree.map(lambda leaf, index=index: jnp.asarray(leaf[index]), record.policy)
        expected = evaluate(problem, policy)
        np.testing.assert_allclose(
            record.evaluation.divergence[index], expected.divergence, rtol=1e-5
        )
        reward = environment.reward(problem, expected)
        np.testing.assert_allclose(record.reward[index], reward, rtol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_is_nan_not_even_what_is_left_out(problem: Problem, name: str) -> None:
    """JAX_DEBUG_NANS would refuse it. Of 2 x 4 evaluations or more, the budget leaves 6."""
    strategy = shared(name)
    carry = loop.start(strategy, problem, jax.random.key(0)[None], 6)
    begin, run_chunk = loop._compile(strategy, evaluate, 2, "map")
    for leaf in jax.tree.leaves(run_chunk(begin(problem), carry, problem, problem)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert not np.isnan(leaf).any()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_key_decides_everything(
    problem: Problem, records: dict[str, loop.Record], name: str
) -> None:
    """Of a strategy that is built anew; the agent of `two` is."""
    strategy = shared(name) if name == "actor_critic" else STRATEGIES[name]()
    again = run_search(strategy, problem, 0, 22)
    jax.tree.map(np.testing.assert_array_equal, records[name], again)


def test_another_key_gives_other_policies(
    problem: Problem, records: dict[str, loop.Record]
) -> None:
    other = run_search(shared("random"), problem, 1, 22)
    assert (records["random"].policy.level != other.policy.level).any()
    assert len(np.unique(other.reward)) > 15


def test_the_search_is_better_than_chance(records: dict[str, loop.Record]) -> None:
    assert records["actor_critic"].reward.max() > records["random"].reward.max()


@pytest.mark.parametrize("budget", [1, 3, 8])
def test_small_budgets_are_met(problem: Problem, budget: int) -> None:
    assert run_search(shared("random"), problem, 0, budget).reward.shape == (budget,)


def test_a_shorter_search_begins_a_longer_one(
    problem: Problem, records: dict[str, loop.Record]
) -> None:
    short = run_search(shared("random"), problem, 0, 10)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:10]), short, records["random"])


@pytest.mark.parametrize("name", ["random", "genetic", "cma_es"])
def test_evaluation_is_traced_for_the_first_chunk_only(problem: Problem, name: str) -> None:
    traces = 0

    def counted(problem: Problem, policy: Policy) -> Evaluation:
        nonlocal traces
        traces += 1
        return evaluate(problem, policy)

    strategy, key = STRATEGIES[name](), jax.random.key(0)
    chunks = loop.run(strategy, counted, problem, problem, key, 60, chunk=2)
    next(chunks)
    first = traces
    assert len(list(chunks)) >= 2
    assert 1 <= traces == first
    # Nor for another limit, as the front is searched.
    stricter = problem._replace(min_accuracy=problem.min_accuracy + 0.005)
    assert len(list(loop.run(strategy, counted, problem, stricter, key, 8, chunk=2))) == 1
    assert traces == first


def test_each_of_several_searches_is_bit_for_bit_the_search_alone(
    problem: Problem, records: dict[str, loop.Record], two: tuple[str, Chunks]
) -> None:
    name, chunks = two
    record = stages.joined(record for _, record in chunks.chunks)
    assert len(record.reward) == 44
    alone = records[name]._replace(search=np.ones(22, np.int32))
    second = jax.tree.map(lambda x: x[record.search == 1], record)
    jax.tree.map(np.testing.assert_array_equal, second, alone)
    if name in ("actor_critic", "genetic"):
        alone = run_search(shared(name), problem, 1, 22)
        first = jax.tree.map(lambda x: x[record.search == 0], record)
        jax.tree.map(np.testing.assert_array_equal, first, alone)


def test_searches_side_by_side_are_the_same_but_for_rounding(
    problem: Problem, two: tuple[str, Chunks]
) -> None:
    """Over one chunk from the same carry: rounding grows with every step."""
    _, (strategy, _, alone) = two
    carry, (after, record) = alone[0][0], alone[1]
    chunks = loop.resume(strategy, evaluate, problem, problem, carry, 2, batch="vmap")
    beside, other = next(chunks)
    np.testing.assert_array_equal(other.search, record.search)
    same = (choices(other) == choices(record)).all(axis=(1, 2))
    assert same.mean() > 0.8  # a tie may be rounded to the other side
    np.testing.assert_allclose(other.reward[same], record.reward[same], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(beside.left, after.left)


def test_each_search_has_its_own_end(problem: Problem) -> None:
    """One that has proposed everything waits for the other, and is asked no more."""

    def init(key: jax.Array, problem: Problem) -> jax.Array:
        return jax.random.key_data(key)[1] % 2 * 8 + 4  # proposes so many

    def ask(key: jax.Array, state: jax.Array, problem: Problem) -> tuple:
        policies, valid, _ = random(SPACE, 4).ask(key, None, problem)
        return policies, valid & (state > 0), state - 4

    def tell(key: jax.Array, state: jax.Array, *_: Any) -> jax.Array:
        return state

    keys = [jax.random.key(seed) for seed in range(8)]
    proposes = [int(init(jax.random.split(key)[1], problem)) for key in keys]
    few, many = (keys[proposes.index(count)] for count in (4, 12))
    strategy = Strategy(init, ask, tell)
    begin = loop.start(strategy, problem, jnp.stack([few, many]), 30)
    chunks = list(loop.resume(strategy, evaluate, problem, problem, begin, 1))
    assert [np.bincount(record.search, minlength=2).tolist() for _, record in chunks] == [
        [4, 4],
        [0, 4],
        [0, 4],
        [0, 0],
    ]
    assert chunks[-1][0].left.tolist() == [0, 0]


def test_an_evaluator_is_asked_to_remember() -> None:
    assert issubclass(Evaluator, loop.Remembering)
    assert not isinstance(evaluate, loop.Remembering)
