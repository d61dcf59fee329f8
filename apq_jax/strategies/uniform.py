"""The same keep ratio and bits in every layer, the usual choice without a search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.types import Policy


def uniform(space: Space, parallel: int) -> Strategy:
    """Builds a strategy that proposes every uniform policy once, in random order, then stops."""
    grid = combine_choices(np.arange(space.levels), *space.bits)
    return make_table_strategy(parallel, lambda problem: jnp.asarray(grid)[:, :, None])


def combine_choices(*choices: Any) -> np.ndarray:
    """Returns all combinations of D lists of choices: [D, N] int32."""
    return np.stack([x.ravel() for x in np.meshgrid(*choices, indexing="ij")]).astype(np.int32)


def make_table_strategy(parallel: int, table: Callable[[Problem], jax.Array]) -> Strategy:
    """Makes a strategy that proposes each policy of a table once, in random order, then stops.

    Args:
      parallel: E, policies at a time.
      table: maps a problem to the N policies, [D, N, L] or [D, N, 1] int32.
    """

    def init(key: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array]:
        order = jax.random.permutation(key, table(problem).shape[1])
        return order, jnp.zeros((), jnp.int32)

    def ask(key: jax.Array, state: tuple, problem: Problem) -> tuple[Policy, jax.Array, tuple]:
        del key
        order, proposed = state
        policies = table(problem)
        index = proposed + jnp.arange(parallel)
        valid = index < len(order)
        chosen = policies[:, order[jnp.minimum(index, len(order) - 1)]]
        shape = parallel, problem.features.shape[0]
        fields = (jnp.broadcast_to(field, shape) for field in chosen)
        return Policy(*fields), valid, (order, proposed + parallel)

    return Strategy(init, ask, lambda key, state, *_: state)
