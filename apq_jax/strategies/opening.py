"""What every search that learns from its evaluations begins with, and what it keeps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.types import Evaluation, Policy

_PRICES = (0.01, 30.0)  # of the dense network's cost, in units of relative output error


class Best(NamedTuple):
    """The best policy so far: one that meets the limit beats every one that does not."""

    actions: jax.Array  # [L, D]
    reward: jax.Array  # [], -inf at first
    feasible: jax.Array  # [] bool


def init_best(problem: Problem, space: Space) -> Best:
    """Before anything was evaluated: unpruned, at the most bits."""
    layers = problem.features.shape[0]
    bits = (jnp.full(layers, choices[-1]) for choices in space.bits)
    dense = environment.encode(space, Policy(jnp.zeros(layers, jnp.int32), *bits))
    return Best(dense, jnp.asarray(-jnp.inf), jnp.asarray(False))


def score(problem: Problem, valid: jax.Array, evaluations: Evaluation) -> jax.Array:
    """Rewards [E], -inf where not valid."""
    rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
    return jnp.where(valid, rewards, -jnp.inf)


def update_best(
    best: Best, problem: Problem, actions: jax.Array, valid: jax.Array, evaluations: Evaluation
) -> Best:
    """The better of `best` and E policies, by their actions [E, L, D]."""
    rewards = score(problem, valid, evaluations)
    # A policy that meets the limit beats every one that does not, whatever the penalty.
    meets = valid & (environment.shortfall(problem, evaluations) == 0)
    winner = jnp.argmax(jnp.where(meets == meets.any(), rewards, -jnp.inf))
    first = meets[winner] & ~best.feasible
    better = first | ((meets[winner] == best.feasible) & (rewards[winner] > best.reward))
    return Best(
        jnp.where(better, actions[winner], best.actions),
        jnp.where(better, rewards[winner], best.reward),
        best.feasible | meets[winner],
    )


def propose_closed_forms(
    problem: Problem, space: Space, number: jax.Array, count: int, allowed: jax.Array
) -> Policy:
    """The policies `number` [E] of `count` closed-form ones, from dear to cheap.

    So a feasible one comes early, or is known not to exist. `allowed` is from
    `environment.allowed_by`. Searches of another `Problem.phase` begin with other ones.
    """
    low, high = jnp.log(jnp.asarray(_PRICES))
    prices = jnp.exp(low + (high - low) * (number + problem.phase) / max(count - 1, 1))
    return jax.vmap(lambda price: environment.solve_closed_form(problem, space, price, allowed))(
        prices
    )


def propose(
    problem: Problem,
    space: Space,
    number: jax.Array,
    count: int,
    allowed: jax.Array,
    after: jax.Array,
) -> Policy:
    """The first `count` evaluations are `closed_forms`, by `number` [E]; then come `after`.

    `after` is places among the choices, [E, L, D].
    """
    begin = propose_closed_forms(problem, space, number, count, allowed)
    then = environment.decode_places(space, after)
    return jax.tree.map(lambda a, b: jnp.where(number[:, None] < count, a, b), begin, then)
