"""The paper's order (Yang et al., IEEE TPDS 2023): pruning first, then the pruned network's bits.

One agent searches keep ratios at the most bits. The best feasible pruning is frozen. Then a second
agent searches the bitwidths of the pruned network. If the space leaves only one of the two to
choose, its search has the whole budget and the whole allowed loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Outcome, Strategy
from apq_jax.strategies.actor_critic import State, actor_critic
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.types import Policy


class ApqState(NamedTuple):
    """The searches of both agents."""

    pruning: State
    bits: State


def apq(
    space: Space,
    options: ActorCriticOptions,
    parallel: int,
    pruning_budget: int,
    pruning_drop: float,
) -> Strategy:
    """Builds the two searches, one after the other.

    Args:
      space: the choices.
      options: of either agent.
      parallel: E, episodes at a time.
      pruning_budget: evaluations after which the pruning is frozen.
      pruning_drop: share of the allowed loss of accuracy that pruning may use, because the bits
        need the rest (ours; the paper gives none).
    """
    bits = len(space.bits)
    first = actor_critic(space, options, (True, *(False,) * bits), parallel)
    second = actor_critic(space, options, (False, *(True,) * bits), parallel)
    if max(space.sizes[1:]) == 1:
        return first
    if space.levels == 1:
        return second

    def limit_pruning(problem: Problem) -> Problem:
        """Gives pruning its share of the drop, and half of each cost reduction on a log scale."""
        drop = problem.float_accuracy - problem.min_accuracy
        limited = jnp.isfinite(problem.min_accuracy)
        min_accuracy = problem.float_accuracy - pruning_drop * jnp.where(limited, drop, 0.0)
        max_cost = jnp.sqrt(problem.max_cost * jnp.maximum(problem.dense, problem.max_cost))
        min_accuracy = jnp.where(limited, min_accuracy, problem.min_accuracy)
        return problem._replace(min_accuracy=min_accuracy, max_cost=max_cost)

    def init(key: jax.Array, problem: Problem) -> ApqState:
        first_key, second_key = jax.random.split(key)
        return ApqState(first.init(first_key, problem), second.init(second_key, problem))

    def ask(
        key: jax.Array, state: ApqState, problem: Problem
    ) -> tuple[Policy, jax.Array, ApqState]:
        policies, valid = lax.cond(
            state.pruning.told < pruning_budget,
            lambda: first.ask(key, state.pruning, limit_pruning(problem))[:2],
            lambda: second.ask(key, state.bits, problem)[:2],
        )
        return policies, valid, state

    def tell(key: jax.Array, state: ApqState, problem: Problem, outcome: Outcome) -> ApqState:
        def prune() -> ApqState:
            pruning = first.tell(key, state.pruning, limit_pruning(problem), outcome)
            frozen = state.bits.best._replace(actions=pruning.best.actions)
            return ApqState(pruning, state.bits._replace(best=frozen))

        def set_bits() -> ApqState:
            return state._replace(bits=second.tell(key, state.bits, problem, outcome))

        return lax.cond(state.pruning.told < pruning_budget, prune, set_bits)

    return Strategy(init, ask, tell)
