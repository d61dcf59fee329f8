"""Ask, evaluate, tell: one compiled scan, run in chunks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax import environment
from apq_jax.environment import Problem
from apq_jax.strategies import Strategy
from apq_jax.types import Evaluation, Policy

# (arrays that evaluation needs, one policy) -> its evaluation
Evaluate = Callable[[Any, Policy], Evaluation]


class Carry(NamedTuple):
    """A search between two chunks."""

    key: jax.Array
    state: Any  # the strategy's
    left: jax.Array  # [] int32, evaluations of the budget that are left


class Record(NamedTuple):
    """Policies in the order in which they were evaluated: N of them, on the host."""

    policy: Policy  # [N, L]
    evaluation: Evaluation  # [N]
    reward: np.ndarray  # [N]


@functools.lru_cache(maxsize=16)
def _compiled(strategy: Strategy, evaluate: Evaluate, chunk: int) -> Callable:
    """A chunk of batches: one program for a strategy and an evaluation, whatever the problem."""

    def step(carry: Carry, subject: Any, problem: Problem) -> tuple[Carry, tuple]:
        key, ask_key, tell_key = jax.random.split(carry.key, 3)
        policies, valid, state = strategy.ask(ask_key, carry.state, problem)
        valid &= jnp.cumsum(valid) <= carry.left
        blank = jax.tree.map(
            lambda shape: jnp.zeros(shape.shape, shape.dtype),
            jax.eval_shape(evaluate, subject, jax.tree.map(lambda x: x[0], policies)),
        )

        def one(item: tuple[Policy, jax.Array]) -> Evaluation:
            policy, wanted = item
            return lax.cond(wanted, lambda: evaluate(subject, policy), lambda: blank)

        evaluations = lax.map(one, (policies, valid))
        state = strategy.tell(tell_key, state, problem, policies, valid, evaluations)
        rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
        left = carry.left - valid.sum(dtype=jnp.int32)
        return Carry(key, state, left), (policies, evaluations, rewards, valid)

    @jax.jit
    def steps(carry: Carry, subject: Any, problem: Problem) -> tuple[Carry, tuple]:
        return lax.scan(lambda c, _: step(c, subject, problem), carry, length=chunk)

    return steps


def run(
    strategy: Strategy,
    evaluate: Evaluate,
    subject: Any,
    problem: Problem,
    key: jax.Array,
    budget: int,
    chunk: int,
) -> Iterator[Record]:
    """Searches until the budget is spent, yielding what each chunk evaluated.

    Args:
      strategy: what proposes.
      evaluate: one policy's worth; mapped over the policies asked for, compiled once.
      subject: the arrays it needs, passed in and never closed over.
      problem: what the strategy may know.
      key: the search's randomness.
      budget: evaluations in all.
      chunk: batches of policies between two looks from the host.
    """
    steps = _compiled(strategy, evaluate, chunk)
    key, init_key = jax.random.split(key)
    carry = Carry(key, strategy.init(init_key, problem), jnp.asarray(budget, jnp.int32))
    left = budget
    while left > 0:
        carry, (policies, evaluations, rewards, valid) = steps(carry, subject, problem)
        chosen = np.asarray(valid)
        policies, evaluations, rewards = jax.tree.map(
            lambda x, chosen=chosen: np.asarray(x)[chosen], (policies, evaluations, rewards)
        )
        yield Record(policies, evaluations, rewards)
        if not chosen.any():  # a strategy that has nothing more to propose
            return
        left -= int(chosen.sum())
