"""The closed-form policies that searches begin with, and the best policy that they keep."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Outcome
from apq_jax.types import Policy

_PRICES = (0.01, 30.0)  # range of the price of the dense network's cost, in relative output error


class Best(NamedTuple):
    """The best policy so far; a policy that meets the limits beats every one that does not."""

    actions: jax.Array  # [L, D]
    reward: jax.Array  # [], -inf at first
    feasible: jax.Array  # [] bool


def init_best(problem: Problem, space: Space) -> Best:
    """Returns the best policy before any evaluation: unpruned, at the most bits."""
    layers = problem.features.shape[0]
    bits = (jnp.full(layers, choices[-1]) for choices in space.bits)
    dense = environment.encode(space, Policy(jnp.zeros(layers, jnp.int32), *bits))
    return Best(dense, jnp.asarray(-jnp.inf), jnp.asarray(False))


def score(problem: Problem, outcome: Outcome) -> jax.Array:
    """Returns the rewards of E policies, -inf where a policy is not valid: [E]."""
    rewards = jax.vmap(environment.reward, (None, 0))(problem, outcome.evaluations)
    return jnp.where(outcome.valid, rewards, -jnp.inf)


def update_best(best: Best, problem: Problem, space: Space, outcome: Outcome) -> Best:
    """Returns the best of `best` and the E valid policies, by this problem's rewards and limits.

    `best` keeps the reward that it had when it was found.
    """
    actions, rewards = environment.encode(space, outcome.policies), score(problem, outcome)
    # Feasible policies are compared first, because a small penalty may rank others above them.
    meets = outcome.valid & (environment.shortfall(problem, outcome.evaluations) == 0)
    winner = jnp.argmax(jnp.where(meets == meets.any(), rewards, -jnp.inf))
    first = meets[winner] & ~best.feasible
    better = first | ((meets[winner] == best.feasible) & (rewards[winner] > best.reward))
    return Best(
        jnp.where(better, actions[winner], best.actions),
        jnp.where(better, rewards[winner], best.reward),
        best.feasible | meets[winner],
    )


def propose_closed_forms(
    problem: Problem, space: Space, index: jax.Array, count: int, allowed: jax.Array
) -> Policy:
    """Proposes closed-form policies [E, L], over a range of prices; the first is the most costly.

    The most costly policies come first because they lose least accuracy, so a search soon knows
    whether a policy meets the limit of accuracy. Another `Problem.phase` gives other policies.

    Args:
      index: [E], which of the `count` policies to propose.
      allowed: from `environment.allow_free` or `environment.allow_all`.
    """
    low, high = jnp.log(jnp.asarray(_PRICES))
    prices = jnp.exp(low + (high - low) * (index + problem.phase) / max(count - 1, 1))
    return jax.vmap(lambda price: environment.solve_closed_form(problem, space, price, allowed))(
        prices
    )


def propose(
    problem: Problem,
    space: Space,
    index: jax.Array,
    count: int,
    allowed: jax.Array,
    places: jax.Array,
) -> Policy:
    """Proposes closed forms for the first `count` evaluations, then the policies at `places`.

    Args:
      index: [E], number of evaluations before each proposal.
      count, allowed: as for `propose_closed_forms`.
      places: [E, L, D].
    """
    opening = propose_closed_forms(problem, space, index, count, allowed)
    rest = environment.decode_places(space, places)
    return jax.tree.map(lambda a, b: jnp.where(index[:, None] < count, a, b), opening, rest)
