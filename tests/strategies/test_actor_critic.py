"""The actor-critic as a strategy: what it keeps, proposes and passes on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers.problems import LAYERS, OPTIONS, SPACE, choices, evaluate, evaluation_of, searched

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem
from apq_jax.strategies import Outcome, loop
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.types import Evaluation, Policy


def test_the_agent_leaves_what_is_not_free(problem: Problem) -> None:
    """At the end of the warm-up and, with noise, after it."""
    noisy = dataclasses.replace(OPTIONS, explore=1.0, noise=0.5)
    strategy = actor_critic(SPACE, noisy, (True, False, False), 4)
    state = strategy.init(jax.random.key(0), problem)
    ask = jax.jit(strategy.ask)
    for told in (OPTIONS.warmup - 4, OPTIONS.warmup):
        policies, _, _ = ask(jax.random.key(1), state._replace(told=jnp.asarray(told)), problem)
        assert set(policies.weight_bits.ravel().tolist()) == {SPACE.weight_bits[-1]}
        assert set(policies.input_bits.ravel().tolist()) == {SPACE.input_bits[-1]}
        assert len(np.unique(policies.level)) > 1


def test_what_is_known_is_not_proposed_again(problem: Problem) -> None:
    """While there is more to imagine; and each proposal has its turn, also one at a time."""
    for parallel in (4, 1):
        options = dataclasses.replace(OPTIONS, imagined=32, warmup=4)
        strategy = actor_critic(SPACE, options, (True, True, True), parallel)
        record = searched(strategy, problem, 0, 36)
        policies = [tuple(row.ravel().tolist()) for row in choices(record)]
        known: set[tuple[int, ...]] = set(policies[:4])
        for start in range(4, 36, parallel):
            batch = policies[start : start + parallel]
            assert not known.intersection(batch)
            known.update(batch)


def test_what_was_learnt_of_one_limit_serves_another(problem: Problem) -> None:
    """With the state of a search for a looser limit, no closed form is asked for again."""
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 4)
    assert strategy.transferable
    assert not actor_critic(SPACE, OPTIONS, (True, False, False), 4).transferable
    begin = loop.start(strategy, problem, jax.random.key(0)[None], 24)
    *_, (carry, first) = loop.resume(strategy, evaluate, problem, problem, begin, 6)
    stricter = problem._replace(min_accuracy=problem.min_accuracy + 0.005)
    further = carry._replace(left=jnp.full(1, 8, jnp.int32))
    (_, second), *_ = loop.resume(strategy, evaluate, problem, stricter, further, 2)
    again = {tuple(row.ravel().tolist()) for row in choices(second)}
    assert not again.intersection(tuple(row.ravel().tolist()) for row in choices(first))


def test_the_agent_keeps_the_best_and_counts_what_is_valid(problem: Problem) -> None:
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 4)
    state = strategy.init(jax.random.key(0), problem)
    policies, valid, state = jax.jit(strategy.ask)(jax.random.key(1), state, problem)
    assert valid.all()
    evaluations = jax.vmap(evaluate, (None, 0))(problem, policies)
    rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
    valid = jnp.arange(4) != jnp.argmax(rewards)  # the best is not among what was executed
    tell = jax.jit(strategy.tell)
    told = tell(jax.random.key(2), state, problem, Outcome(policies, valid, evaluations))
    kept = np.asarray(rewards)[np.asarray(valid)]
    assert told.told == 3
    distinct = {
        tuple(row)
        for row in np.concatenate(jax.tree.leaves(policies), axis=1)[np.asarray(valid)].tolist()
    }
    assert told.replay.filled == len(distinct)
    np.testing.assert_allclose(told.best.reward, kept.max(), rtol=1e-6)
    best = int(np.argmax(np.where(valid, rewards, -np.inf)))
    assert (
        environment.decode(SPACE, told.best.actions).level.tolist() == policies.level[best].tolist()
    )


def test_what_meets_the_limit_beats_what_does_not(problem: Problem) -> None:
    """However little the penalty: 0.95 - 0.5 x 0.021 is a hair below the limit of 0.94."""
    strategy = actor_critic(SPACE, OPTIONS, (True, True, True), 2)
    lenient = problem._replace(penalty=jnp.asarray(1e-6))
    near, met = evaluation_of(0.021, 100, 10.0), evaluation_of(0.0, 900, 90.0)
    levels = jnp.asarray([[4, 4, 4], [1, 1, 1]])
    bits = jnp.full((2, LAYERS), 6)
    policies = Policy(levels, bits, bits)

    def told(evaluations: tuple[Evaluation, Evaluation], state: Any = None) -> Any:
        state = strategy.init(jax.random.key(0), lenient) if state is None else state
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *evaluations)
        outcome = Outcome(policies, jnp.ones(2, bool), both)
        return strategy.tell(jax.random.key(1), state, lenient, outcome)

    def levels_of(state: Any) -> list[int]:
        return environment.decode(SPACE, state.best.actions).level.tolist()

    together = told((near, met))
    assert together.best.feasible
    assert levels_of(together) == [1, 1, 1]
    missed = told((near, near))
    assert not missed.best.feasible
    assert levels_of(missed) == [4, 4, 4]
    assert levels_of(told((near, met), missed)) == [1, 1, 1]  # of less reward, but it meets
    assert levels_of(told((near, near), together)) == [1, 1, 1]  # and stays
