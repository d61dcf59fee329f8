"""The paper's order (Yang et al., IEEE TPDS 2023): pruning first, then the pruned network's bits.

One agent searches keep ratios at the most bits; the best feasible pruning is frozen; a second
agent searches the bitwidths of the pruned network. Where one of the two cannot be chosen, the other
has the whole budget and all that may be lost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.strategies.actor_critic import State, actor_critic
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.types import Evaluation, Policy


class ApqState(NamedTuple):
    """Both agents' searches."""

    pruning: State
    bits: State


def apq(
    space: Space,
    options: ActorCriticOptions,
    parallel: int,
    pruning_budget: int,
    pruning_drop: float,
) -> Strategy:
    """The two searches, one after the other.

    Args:
      space: static.
      options: of either agent.
      parallel: E, episodes at a time.
      pruning_budget: evaluations after which the pruning is frozen.
      pruning_drop: share of the accuracy that may be lost which pruning may use up; the bits
        need the rest (ours: the paper does not say).
    """
    bits = len(space.bits)
    first = actor_critic(space, options, (True, *(False,) * bits), parallel)
    second = actor_critic(space, options, (False, *(True,) * bits), parallel)
    if max(space.sizes[1:]) == 1:
        return first
    if space.levels == 1:
        return second

    def stricter(problem: Problem) -> Problem:
        """Of the accuracy a share; of the ratio that a cost must come down by, the root."""
        drop = problem.float_accuracy - problem.min_accuracy
        limited = jnp.isfinite(problem.min_accuracy)
        least = problem.float_accuracy - pruning_drop * jnp.where(limited, drop, 0.0)
        root = jnp.sqrt(problem.max_cost * jnp.maximum(problem.dense, problem.max_cost))
        return problem._replace(
            min_accuracy=jnp.where(limited, least, problem.min_accuracy),
            max_cost=root,
        )

    def init(key: jax.Array, problem: Problem) -> ApqState:
        first_key, second_key = jax.random.split(key)
        return ApqState(first.init(first_key, problem), second.init(second_key, problem))

    def ask(
        key: jax.Array, state: ApqState, problem: Problem
    ) -> tuple[Policy, jax.Array, ApqState]:
        policies, valid = lax.cond(
            state.pruning.told < pruning_budget,
            lambda: first.ask(key, state.pruning, stricter(problem))[:2],
            lambda: second.ask(key, state.bits, problem)[:2],
        )
        return policies, valid, state

    def tell(
        key: jax.Array,
        state: ApqState,
        problem: Problem,
        policies: Policy,
        valid: jax.Array,
        evaluations: Evaluation,
    ) -> ApqState:
        def prune() -> ApqState:
            pruning = first.tell(
                key, state.pruning, stricter(problem), policies, valid, evaluations
            )
            frozen = state.bits.best._replace(actions=pruning.best.actions)
            return ApqState(pruning, state.bits._replace(best=frozen))

        def set_bits() -> ApqState:
            return state._replace(
                bits=second.tell(key, state.bits, problem, policies, valid, evaluations)
            )

        return lax.cond(state.pruning.told < pruning_budget, prune, set_bits)

    return Strategy(init, ask, tell)
