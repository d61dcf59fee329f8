"""Layer-adaptive magnitude pruning (Lee et al., ICLR 2021, arXiv 2010.07611), bits alike.

The LAMP score of a block is its energy over that of all blocks of its layer that are no weaker. One
threshold on the score, the same for all layers, gives every layer its keep ratio in closed form.
"""

import jax
import jax.numpy as jnp

from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.strategies.uniform import combine_choices, make_table_strategy


def lamp(space: Space, parallel: int, budget: int) -> Strategy:
    """Thresholds for each choice of bits, as many as the budget allows."""
    # The converters keep all their bits: so many more choices would leave too few thresholds.
    bits = combine_choices(*space.bits[:2], *(choices[-1:] for choices in space.bits[2:]))
    thresholds = max(budget // bits.shape[1], 1)

    def table(problem: Problem) -> jax.Array:
        least = jnp.log(jnp.maximum(problem.lamp[:, 0].min(), 1e-12))
        scores = jnp.exp(jnp.linspace(least, 0.0, thresholds))
        # The fewest survivors of a layer that are all at or above the threshold.
        below = problem.lamp[None] < scores[:, None, None]  # [T, L, K]
        level = jnp.minimum(below.sum(axis=-1), space.levels - 1).astype(jnp.int32)
        count, layers = level.shape
        levels = jnp.broadcast_to(level[:, None], (count, bits.shape[1], layers))
        same = jnp.broadcast_to(jnp.asarray(bits)[:, None, :, None], (len(bits), *levels.shape))
        return jnp.concatenate([levels[None], same]).reshape(len(space.sizes), -1, layers)

    return make_table_strategy(parallel, table)
