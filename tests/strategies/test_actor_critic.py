"""The actor-critic as a strategy: what it keeps, proposes and passes on."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from helpers.problems import (
    LAYERS,
    OPTIONS,
    SPACE,
    choices,
    evaluate,
    evaluation_of,
    shared,
)

from apq_jax.pipeline import stages
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem
from apq_jax.strategies import Outcome, loop
from apq_jax.strategies.actor_critic import State, actor_critic
from apq_jax.types import Evaluation, Policy

Searched = tuple[loop.Carry, loop.Record]


def search(problem: Problem, carry: loop.Carry) -> Searched:
    """Four proposals at a time, of the 32 choices that the agent imagines."""
    agent = shared("actor_critic")
    chunks = list(loop.resume(agent, evaluate, problem, problem, carry, 2))
    return chunks[-1][0], stages.joined(record for _, record in chunks)


@pytest.fixture(scope="module")
def begin(problem: Problem) -> loop.Carry:
    return loop.start(shared("actor_critic"), problem, jax.random.key(0)[None], 40)


@pytest.fixture(scope="module")
def searched(problem: Problem, begin: loop.Carry) -> Searched:
    return search(problem, begin)


@pytest.fixture(scope="module")
def tell() -> Any:
    return jax.jit(shared("actor_critic").tell)


def state_of(carry: loop.Carry) -> State:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], carry.state)


def rows(policies: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row.ravel().tolist()) for row in policies]


@jax.jit
def decode(actions: jax.Array) -> Policy:
    return environment.decode(SPACE, actions)


def test_the_agent_leaves_what_is_not_free(problem: Problem, searched: Searched) -> None:
    """At the end of the warm-up and, with noise, after it: bits stay those of the best policy."""
    noisy = dataclasses.replace(OPTIONS, explore=1.0, noise=0.5)
    ask = jax.jit(actor_critic(SPACE, noisy, (True, False, False), 4).ask)
    state = state_of(searched[0])
    best = decode(state.best.actions)
    assert (searched[1].policy.weight_bits != best.weight_bits).any()  # others are known
    assert (searched[1].policy.input_bits != best.input_bits).any()
    for told in (OPTIONS.warmup - 4, OPTIONS.warmup):
        state = state._replace(told=np.int32(told))
        policies, _, _ = ask(jax.random.key(1), state, problem)
        assert (policies.weight_bits == best.weight_bits).all()
        assert (policies.input_bits == best.input_bits).all()
        assert len(np.unique(policies.level)) > 1


def test_what_is_known_is_not_proposed_again(problem: Problem, searched: Searched) -> None:
    """While there is more to imagine; and each proposal has its turn, also one at a time."""
    carry, record = searched
    policies = rows(choices(record))
    known = set(policies[: OPTIONS.warmup])
    for start in range(OPTIONS.warmup, 40, 4):
        batch = policies[start : start + 4]
        assert not known.intersection(batch)
        known.update(batch)
    ask = jax.jit(actor_critic(SPACE, OPTIONS, (True, True, True), 1).ask)
    state = state_of(carry)
    for told in range(40, 48):  # every count of imagined episodes
        policy, _, _ = ask(jax.random.key(told), state._replace(told=np.int32(told)), problem)
        assert not known.intersection(rows(np.stack(jax.tree.leaves(policy), axis=-1)))


def test_what_was_learnt_of_one_limit_serves_another(problem: Problem, searched: Searched) -> None:
    """With the state of a search for a looser limit, no closed form is asked for again."""
    assert shared("actor_critic").transferable
    assert not actor_critic(SPACE, OPTIONS, (True, False, False), 4).transferable
    carry, first = searched
    stricter = problem._replace(min_accuracy=problem.min_accuracy + 0.005)
    _, second = search(stricter, carry._replace(left=np.full(1, 8, np.int32)))
    assert len(second.reward) == 8
    assert not set(rows(choices(second))).intersection(rows(choices(first)))


def test_the_agent_keeps_the_best_and_counts_what_is_valid(
    problem: Problem, begin: loop.Carry, searched: Searched, tell: Any
) -> None:
    record = searched[1]
    policies, evaluations = jax.tree.map(lambda x: x[:4], (record.policy, record.evaluation))
    rewards = record.reward[:4]
    valid = np.arange(4) != np.argmax(rewards)  # the best is not among what was executed
    outcome = Outcome(policies, valid, evaluations)
    told = tell(jax.random.key(2), state_of(begin), problem, outcome)
    assert told.told == 3
    assert told.replay.filled == len(set(rows(choices(record)[:4][valid])))
    np.testing.assert_allclose(told.best.reward, rewards[valid].max(), rtol=1e-6)
    best = int(np.argmax(np.where(valid, rewards, -np.inf)))
    assert decode(told.best.actions).level.tolist() == policies.level[best].tolist()


def test_what_meets_the_limit_beats_what_does_not(
    problem: Problem, begin: loop.Carry, tell: Any
) -> None:
    """However little the penalty: 0.95 - 0.5 x 0.021 is a hair below the limit of 0.94."""
    lenient = problem._replace(penalty=np.float32(1e-6))
    near, met = evaluation_of(0.021, 100, 10.0), evaluation_of(0.0, 900, 90.0)
    levels = np.repeat(np.asarray([4, 1, 0, 0], np.int32)[:, None], LAYERS, axis=1)
    bits = np.full((4, LAYERS), 6, np.int32)
    valid = np.asarray([True, True, False, False])

    def told(evaluations: tuple[Evaluation, Evaluation], state: State | None = None) -> State:
        state = state_of(begin) if state is None else state
        four = jax.tree.map(lambda *leaves: np.stack(leaves), *evaluations, *evaluations)
        outcome = Outcome(Policy(levels, bits, bits), valid, four)
        return tell(jax.random.key(1), state, lenient, outcome)

    def levels_of(state: State) -> list[int]:
        return decode(state.best.actions).level.tolist()

    together = told((near, met))
    assert together.best.feasible
    assert levels_of(together) == [1, 1, 1]
    missed = told((near, near))
    assert not missed.best.feasible
    assert levels_of(missed) == [4, 4, 4]
    assert levels_of(told((near, met), missed)) == [1, 1, 1]  # of less reward, but it meets
    assert levels_of(told((near, near), together)) == [1, 1, 1]  # and stays
